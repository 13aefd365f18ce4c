"""The built-in base models: the same bytes from the same seed, every word known, loadable by the ordinary classes."""

import json

import pytest

from moelora.errors import ConfigError, DataUnavailableError
from moelora.tasks.builtin import build_model, decoder_tasks, encoder_tasks, write_data

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with the data of the suite."""
    folder = tmp_path_factory.mktemp("builtin") / "data"
    write_data(folder, 0)
    return folder


@pytest.fixture
def few_steps(monkeypatch):
    """Let base models train for six steps only."""
    from moelora.tasks.builtin import encoder_base, models

    monkeypatch.setitem(models.DECODER_TRAINING, "steps", 6)
    monkeypatch.setitem(encoder_base.ENCODER_TRAINING, "steps", 6)


def document(half, seed=0):
    """Return a model file as far as the builder reads it."""
    return {"name": f"tiny-{half}", "source": {"builtin": f"tiny-{half}", "seed": seed}}


@pytest.mark.parametrize("half", ["decoder", "encoder"])
def test_a_build_is_a_function_of_the_seed(half, data, few_steps, tmp_path):
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        build_model(document(half, seed), data, tmp_path / name)
        torch.rand(3)  # the caller's random state must not matter
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "other")}
    assert weights["one"] == weights["two"] != weights["other"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "two"]
    torch.set_rng_state(random_state)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("half", ["decoder", "encoder"])
def test_every_word_of_every_item_is_known(half, data, few_steps, tmp_path):
    import transformers

    build_model(document(half), data, tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
    longest = 0
    for path in sorted((data / half).rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if half == "decoder":
                ids = tokenizer(row["question"])["input_ids"]
                choices = [tokenizer(f" {choice}")["input_ids"] for choice in row["choices"]]
                # one token a choice: the answer is one prediction, and a prompt tokenizes alike with and without it
                assert {len(choice) for choice in choices} == {1}
                assert tokenizer(f"{row['question']} {row['choices'][0]}")["input_ids"] == ids + choices[0]
                ids = ids + [token for choice in choices for token in choice]
            else:
                ids = tokenizer(row["text"], row["text_pair"])["input_ids"]
            assert tokenizer.unk_token_id not in ids, row
            longest = max(longest, len(ids))
    assert longest <= tokenizer.model_max_length


def test_ordinary_classes_load_the_encoder_with_its_pooler(data, few_steps, tmp_path):
    import transformers

    build_model(document("encoder"), data, tmp_path / "base")
    model, loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=3, output_loading_info=True
    )
    assert {name.split(".")[0] for name in loaded["missing_keys"]} == {"classifier"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
    batch = tokenizer(["The soup was good."], ["The cake was bad."], return_tensors="pt", padding=True)
    assert batch["token_type_ids"].max() == 1
    assert model(**batch).logits.shape == (1, 3)


def test_training_lowers_the_loss(data, few_steps, tmp_path, monkeypatch):
    from moelora.tasks.builtin import models

    curves = []
    train = models.train
    monkeypatch.setattr(models, "train", lambda *args, **options: curves.append(train(*args, **options)))
    monkeypatch.setitem(models.DECODER_TRAINING, "steps", 40)
    build_model(document("decoder"), data, tmp_path / "base")
    assert sum(curves[0][-5:]) < sum(curves[0][:5])


def test_unknown_model_and_missing_corpus_are_named(data, few_steps, tmp_path):
    with pytest.raises(ConfigError, match=r"tiny-decodr.*did you mean 'tiny-decoder'"):
        build_model({"source": {"builtin": "tiny-decodr"}}, data, tmp_path / "base")
    for half in ("decoder", "encoder"):
        with pytest.raises(DataUnavailableError, match=rf"{half}\.jsonl does not exist"):
            build_model(document(half), tmp_path / "nothing", tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_sizes_are_what_the_suite_promises():
    assert len(decoder_tasks.TASKS) >= 6
    assert len(encoder_tasks.TASKS) >= 4
