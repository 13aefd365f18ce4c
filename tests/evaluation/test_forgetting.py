"""Forgetting: numbers against an obvious slow computation, and nothing else of a record changed by them."""

import json

import numpy
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from world import plan, task_document, write_plan

from moelora.errors import ConfigError, DataUnavailableError, RecordError
from moelora.evaluation.forgetting import subject as kept
from moelora.evaluation.forgetting import text as text_module
from moelora.evaluation.forgetting.probes import correlations, drop_interval
from moelora.evaluation.forgetting.subject import changes_body, resampling
from moelora.evaluation.forgetting.text import batches, text_pieces
from moelora.evaluation.metrics import score
from moelora.files import read_json
from moelora.records import read_record, validate_record
from moelora.tasks import load_task
from moelora.tasks.text import HELD_OUT, load_text
from moelora.training.identity import open_run
from moelora.training.run import carry_out, train_run

VOLATILE = ("plan", "environment", "costs", "forgetting")
TEXT = {"text": {"builtin": "corpus", "limit": 12}}
SENTENCES = ["the dog is good .", "a cat sees a bird . the cat likes fish .", "is the fish very very red ?", "no"]


def probes(*names):
    kinds = {"grade": "regression"}
    tasks = [task_document(name, kinds.get(name, "classification")) for name in names]
    return {"probes": {"tasks": tasks, "examples": 48, "items": 20}}


def run_once(world, root, document):
    path = write_plan(root, document)
    run = open_run(path, "test", world / "data", world / document["model"]["architecture"])
    return run, carry_out(run, evaluate=True)


def stable(record):
    kept = {key: value for key, value in record.items() if key not in VOLATILE}
    timed = ("seconds", "cpu_seconds")
    kept["training"] = {key: value for key, value in record["training"].items() if key not in timed}
    return kept


@pytest.fixture(scope="module")
def held_out(world):
    """Write held-out text beside the world's data: 20 documents, of which plans here ask for 12."""
    path = world / "data" / HELD_OUT
    path.parent.mkdir(exist_ok=True)
    rows = [{"kind": "story", "sentences": [SENTENCES[i % 4], SENTENCES[(i // 4 + i) % 4]]} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [" ".join(row["sentences"]) for row in rows]


@pytest.fixture(scope="module")
def decoder(world, held_out, tmp_path_factory):
    """A decoder's run without and with forgetting."""
    document = plan("decoder", [task_document("pick", "multiple_choice")], max_steps=30)
    plain = run_once(world, tmp_path_factory.mktemp("plain"), document)
    return plain, run_once(world, tmp_path_factory.mktemp("asked"), {**document, "forgetting": TEXT})


@pytest.fixture(scope="module")
def encoder(world, tmp_path_factory):
    """An encoder's run on two tasks without and with probes of two others."""
    document = plan("encoder", [task_document("mood"), task_document("odd")], "mixlora", max_steps=30)
    plain = run_once(world, tmp_path_factory.mktemp("plain"), document)
    asked = {**document, "forgetting": probes("grade", "mood2")}
    folder = world / "data" / "encoder"
    (folder / "mood2").mkdir(exist_ok=True)
    for split in ("train", "test"):
        text = (folder / "mood" / f"{split}.jsonl").read_text()
        (folder / "mood2" / f"{split}.jsonl").write_text(text.replace("very ", "not "))
    return plain, run_once(world, tmp_path_factory.mktemp("asked"), asked)


def slow_loss(model, tokenizer, documents, max_length):
    """Return nats per token, document by document and token by token, without padding."""
    total, count = 0.0, 0
    for document in documents:
        ids = tokenizer(document)["input_ids"]
        for start in range(0, len(ids), max_length):
            piece = ids[start : start + max_length]
            logits = model(input_ids=torch.tensor([piece])).logits[0].double()
            for place in range(1, len(piece)):
                total -= float(logits[place - 1].log_softmax(-1)[piece[place]])
                count += 1
    return total / count, count


@torch.no_grad()
def test_the_loss_on_text_is_that_of_a_slow_loop(world, held_out, decoder):
    from transformers import LlamaForCausalLM

    run, record = decoder[1]
    found = record["forgetting"]["text"]
    attached, _ = train_run(run)
    model, tokenizer = attached.model.eval(), attached.base.tokenizer
    base = LlamaForCausalLM.from_pretrained(world / "decoder").eval()
    for key, subject in (("base", base), ("tuned", model)):
        loss, tokens = slow_loss(subject, tokenizer, held_out[:12], 32)
        assert found[key] == pytest.approx(loss, rel=1e-5) and found["tokens"] == tokens
    assert found["documents"] == 12 and found["rise"] == found["tuned"] - found["base"] != 0
    assert found["interval"][0] <= found["rise"] <= found["interval"][1]


def test_the_adapter_is_off_for_the_base_and_on_again_afterwards(decoder, monkeypatch):
    from moelora.evaluation.forgetting import measure_forgetting

    monkeypatch.setattr(kept, "_kept", {})
    run, record = decoder[1]
    attached, _ = train_run(run)
    text = load_text(TEXT["text"], run.data_dir)
    ids = torch.tensor([[5, 6, 7, 8]])
    trainable = {name for name, p in attached.model.named_parameters() if p.requires_grad}
    attached.model.eval()
    with torch.no_grad():
        before = attached.model(input_ids=ids).logits
    again = measure_forgetting(attached, run.plan, text, [], run.base_dir, "cpu")["measured"]
    with torch.no_grad():
        assert torch.equal(attached.model(input_ids=ids).logits, before)
        with attached.model.disable_adapter():
            assert not torch.equal(attached.model(input_ids=ids).logits, before)
    assert {name for name, p in attached.model.named_parameters() if p.requires_grad} == trainable
    assert again == record["forgetting"]  # from disk and from training


def test_full_fine_tuning_is_compared_with_a_fresh_base(world, held_out, decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_kept", {})
    document = plan("decoder", [task_document("pick", "multiple_choice")], "full", max_steps=8)
    _, record = run_once(world, tmp_path, {**document, "forgetting": TEXT})
    found, other = record["forgetting"]["text"], decoder[1][1]["forgetting"]["text"]
    assert found["base"] == other["base"] and found["content"] == other["content"]
    assert found["tuned"] not in (found["base"], other["tuned"])


@torch.no_grad()
def slow_states(model, tokenizer, *texts):
    """Return the mean of the last hidden states of one text, or of two read together."""
    tensors = tokenizer(*texts, return_tensors="pt")
    return model(**tensors, output_hidden_states=True).hidden_states[-1][0].mean(0).double().numpy()


def slow_features(model, tokenizer, examples):
    rows = []
    for x in examples:
        if x.text_pair is None:
            rows.append(slow_states(model, tokenizer, x.text))
            continue
        first, second = (slow_states(model, tokenizer, text) for text in (x.text, x.text_pair))
        together = slow_states(model, tokenizer, x.text, x.text_pair)
        rows.append(numpy.concatenate([together, abs(first - second), first * second]))
    return numpy.stack(rows)


def test_probes_are_those_of_a_slow_loop(world, encoder):
    from transformers import BertForSequenceClassification

    from moelora.models import select_head

    run, record = encoder[1]
    attached, _ = train_run(run)
    tokenizer, found = attached.base.tokenizer, record["forgetting"]["probes"]
    base = BertForSequenceClassification.from_pretrained(world / "encoder").eval()
    assert set(found) == {"tiny-grade", "tiny-mood2"}
    for document in run.plan["forgetting"]["probes"]["tasks"]:
        task, entry = load_task(document, world / "data"), found[document["name"]]
        shown, held = task.train[:48], task.evaluation[:20]
        states = slow_features(base, tokenizer, shown)
        assert states.shape[1] == (48 if task.kind == "regression" else 16)
        mean, scale = states.mean(0), states.std(0)
        linear = Ridge(alpha=1.0) if task.kind == "regression" else LogisticRegression(C=1.0, max_iter=2000)
        linear.fit((states - mean) / scale, [x.label for x in shown])
        labels = numpy.array([x.label for x in held])
        for key, model in (("base", base), ("tuned", attached.model.eval())):
            with select_head(model, "tiny-mood"):
                said = linear.predict((slow_features(model, tokenizer, held) - mean) / scale)
            right = numpy.corrcoef(said, labels)[0, 1] if task.kind == "regression" else (said == labels).mean()
            assert entry[key] == pytest.approx(right, abs=1e-4)
        assert entry["drop"] == entry["base"] - entry["tuned"]
        assert (entry["examples"], entry["items"]) == (48, 20)


@pytest.mark.parametrize("which", ["decoder", "encoder"])
def test_nothing_else_of_the_record_changes(which, request):
    (plain_run, plain), (run, found) = request.getfixturevalue(which)
    assert run.key == plain_run.key and "forgetting" not in plain
    assert stable(found) == stable(plain)
    assert set(found["costs"]) - set(plain["costs"]) == {"forgetting_seconds", "forgetting_cpu_seconds"}
    for name in ("adapter/adapter_model.safetensors", "scores.json"):
        assert (run.folder / name).read_bytes() == (plain_run.folder / name).read_bytes()


def test_asking_later_trains_nothing_again_and_asking_twice_does_nothing(world, held_out, decoder):
    run, plain = decoder[0]
    trained = (run.folder / "train.json").read_bytes()
    asked = {**read_json(run.folder / "plan.json"), "forgetting": TEXT}
    (run.folder / "plan.json").write_text(json.dumps(asked))
    later = open_run(run.folder / "plan.json", "test", world / "data", world / "decoder")
    record = carry_out(later, evaluate=True)
    assert record["forgetting"] == decoder[1][1]["forgetting"] and stable(record) == stable(plain)
    assert (run.folder / "train.json").read_bytes() == trained
    stamp = (run.folder / "record.json").stat().st_mtime_ns
    carry_out(later, evaluate=True)
    assert (run.folder / "record.json").stat().st_mtime_ns == stamp
    asked["forgetting"] = {"text": {**TEXT["text"], "limit": 5}}
    (run.folder / "plan.json").write_text(json.dumps(asked))
    other = open_run(run.folder / "plan.json", "test", world / "data", world / "decoder")
    assert carry_out(other, evaluate=True)["forgetting"]["text"]["documents"] == 5


def test_a_trained_head_alone_forgets_nothing(world, tmp_path):
    document = {**plan("encoder", [task_document("mood")], "base"), "forgetting": probes("odd")}
    run, record = run_once(world, tmp_path, document)
    assert record["status"] == "finished" and "forgetting" not in record
    attached, _ = train_run(run)
    assert not changes_body(attached)


def test_a_probe_needs_two_labels(encoder, monkeypatch):
    import dataclasses

    from moelora.evaluation.forgetting.probes import probe_change

    monkeypatch.setattr(kept, "_kept", {})
    run, _ = encoder[1]
    attached, _ = train_run(run)
    task = load_task(task_document("mood2"), run.data_dir)
    alike = dataclasses.replace(task, train=tuple(x for x in task.train if x.label == 1))
    with pytest.raises(ConfigError, match=r"have one label, .* raise 'forgetting\.probes\.examples'"):
        probe_change(kept.Subject(attached, run.plan, run.base_dir, "cpu"), alike)


def test_a_missing_text_is_known_before_training(world, tmp_path):
    document = plan("decoder", [task_document("pick", "multiple_choice")])
    path = write_plan(tmp_path, {**document, "forgetting": TEXT})
    run = open_run(path, "test", tmp_path, world / "decoder")
    with pytest.raises(DataUnavailableError, match=r"decoder-held-out\.jsonl is needed .*moelora data --out"):
        carry_out(run, evaluate=True)
    assert not (run.folder / "train.json").exists()


def hub_source(folder, **changes):
    return {
        "hub": str(folder),
        "config": None,
        "revision": None,
        "split": "test",
        "field": "text",
        "limit": 3,
    } | changes


def test_text_of_a_data_set_skips_blank_rows_and_says_what_is_wrong(tmp_path, monkeypatch):
    import datasets

    folder = tmp_path / "texts"
    folder.mkdir()
    rows = ["", "one\n", "   ", "two", "three", "four"]
    (folder / "test.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    text = load_text(hub_source(folder), None)
    assert text.documents == ("one\n", "two", "three") and text.name == f"{folder}/test"
    assert load_text(hub_source(folder, limit=2), None).content != text.content
    with pytest.raises(ConfigError, match="has no field 'txt'; did you mean 'text'"):
        load_text(hub_source(folder, field="txt"), None)
    with pytest.raises(DataUnavailableError, match="Unknown split"):
        load_text(hub_source(folder, split="tset"), None)

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setattr("moelora.hub.ask", lambda *_: None)  # as if the hub itself had answered
    wanted = r"data set 'some/text' .* of 'forgetting.text' cannot be had: ConnectionError.*as 'hub' in the suite"
    with pytest.raises(DataUnavailableError, match=wanted):
        load_text(hub_source("some/text"), None)


def test_long_documents_are_read_in_pieces_and_batches_are_small(monkeypatch):
    class Letters:
        def __call__(self, documents):
            return {"input_ids": [list(range(len(document))) for document in documents]}

    documents = ("x" * 10, "y", "z" * 5)
    pieces = text_pieces(type("T", (), {"documents": documents}), Letters(), 4)
    # 4 + 4 + 2, nothing of one token, and 4; the last of the five is alone in its piece
    assert pieces == [(0, (0, 1, 2, 3)), (0, (4, 5, 6, 7)), (0, (8, 9)), (2, (0, 1, 2, 3))]
    with pytest.raises(ConfigError, match="no document of two tokens"):
        text_pieces(type("T", (), {"documents": ("x",), "name": "t"}), Letters(), 4)
    monkeypatch.setattr(text_module, "TOKENS", 8)
    found = list(batches(pieces))
    assert [len(batch) for batch in found] == [2, 2]
    assert sorted(piece for batch in found for piece in batch) == sorted(pieces)
    assert all(len(batch) * max(len(ids) for _, ids in batch) <= 8 for batch in found)


def test_the_interval_of_a_drop_pairs_the_items():
    labels = numpy.arange(200) % 2
    before, after = labels.copy(), labels.copy()
    after[:20] = 1 - after[:20]
    low, high = drop_interval("accuracy", labels, before, after, "x")
    assert 0.05 < low < 0.1 < high < 0.16
    assert drop_interval("accuracy", labels, 1 - labels, 1 - labels, "x") == [0.0, 0.0]
    grades = numpy.linspace(0, 5, 60)
    assert drop_interval("pearson", grades, grades, grades, "x") == pytest.approx([0.0, 0.0])
    assert drop_interval("pearson", grades, grades, -grades, "x") == pytest.approx([2.0, 2.0])
    assert drop_interval("pearson", grades, grades, numpy.ones(60), "x") == pytest.approx([1.0, 1.0])


def test_correlations_of_resamples_are_those_of_the_rows_drawn():
    generator = numpy.random.default_rng(0)
    labels, said = generator.random(40) * 5, generator.random(40)
    drawn = resampling(40, "test", "x")
    for counts, found in zip(drawn[:50], correlations(drawn[:50], labels, said), strict=True):
        rows = numpy.repeat(numpy.arange(40), counts.astype(int))
        assert found == pytest.approx(score("pearson", labels[rows], said[rows]), abs=1e-9)


def test_a_record_of_another_shape_is_refused(decoder):
    record = read_record(decoder[1][0].folder / "record.json")
    for change in ({"text": None}, {"text": {"base": 1.0}, "probes": {}}, {"text": None, "probes": {"a": {}}}):
        with pytest.raises(RecordError, match="forgetting"):
            validate_record({**record, "forgetting": change})
    validate_record({key: value for key, value in record.items() if key != "forgetting"})
