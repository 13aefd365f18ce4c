import math
import sys
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.numpy import load_file
from world import plan, task_document, write_plan

from moelora.evaluation.diagnostics import RoutingRecorder, expert_similarity
from moelora.evaluation.diagnostics.recorder import RouterSums, first_choices
from moelora.evaluation.diagnostics.similarity import increment_cosines, increment_products
from moelora.files import sha256_file
from moelora.routers import RouterOutput, dense, top_k
from moelora.training.identity import open_run
from moelora.training.run import carry_out
from moelora.tuners.experts import expert_factors

sys.path.insert(0, str(Path(__file__).parents[1] / "tuners"))
from tiny_tuners import make_batch, make_model

KINDS = [(kind, method) for kind in ("llama", "bert") for method in ("mixture", "mixlora")]


def set_routers(model, change):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "moelora_router" in name:
                change(parameter)


def record(model, kind, **options):
    batch = make_batch(kind)
    model.eval()
    with torch.no_grad(), RoutingRecorder(model, **options) as recorder:
        model(**batch)
    return recorder


@pytest.mark.parametrize(("kind", "method"), KINDS)
def test_a_uniform_router_has_all_the_entropy_there_is(kind, method):
    model = make_model(kind, method, **({"router": "dense"} if method == "mixture" else {}))
    set_routers(model, torch.nn.init.zeros_)
    rows = record(model, kind).routers()
    assert len(rows) == 2 * (1 if method == "mixlora" else {"llama": 4, "bert": 3}[kind])
    for row in rows:
        assert row["entropy_share"] == {"all": pytest.approx(1.0)}
        assert row["entropy"] == {"all": pytest.approx(math.log(row["experts"]))}
        assert row["layer"] in (0, 1)
    if method == "mixture":  # dense routing: the load is the weight
        assert all((row["dead"], row["load_cv"]) == (0, pytest.approx(0, abs=1e-6)) for row in rows)


def test_a_collapsed_router_leaves_all_but_one_expert_dead():
    logits = torch.full((30, 4), -40.0)
    logits[:, 2] = 40.0
    for output in (dense(logits), top_k(logits, 1)):
        recorder = RoutingRecorder(torch.nn.Identity())
        recorder.sums["layers.3.up"] = RouterSums(4)
        recorder.sums["layers.3.up"].add(output, "a", 5, 1024)
        (row,) = recorder.routers()
        assert (row["dead"], row["layer"]) == (3, 3)
        assert row["load"]["a"] == pytest.approx([0, 0, 1, 0])
        assert row["entropy_share"]["a"] == pytest.approx(0, abs=1e-9)
        assert row["load_cv"] == pytest.approx(3**0.5)  # one of four has it all


def test_an_expert_that_one_task_uses_is_not_dead():
    recorder = RoutingRecorder(torch.nn.Identity())
    recorder.sums["m"] = RouterSums(3)
    for task, busiest in (("a", 0), ("b", 1)):
        logits = torch.zeros(40, 3)
        logits[:, busiest] = 30.0
        recorder.sums["m"].add(top_k(logits, 1), task, 4, 1024)
    (row,) = recorder.routers()
    assert row["dead"] == 1
    assert row["load"] == {"a": pytest.approx([1, 0, 0]), "b": pytest.approx([0, 1, 0])}


def test_unused_slots_are_no_expert():
    chosen = torch.tensor([[1, -1], [-1, 0], [-1, -1], [2, 1]])
    assert first_choices(chosen).tolist() == [1, 0, -1, 2]
    weights = torch.tensor([[0, 1.0, 0], [1.0, 0, 0], [0, 0, 0], [0, 0.5, 0.5]])
    probabilities = torch.full((4, 3), 1 / 3)
    output = RouterOutput(probabilities.log(), probabilities, weights, chosen, torch.zeros(4, 2))
    recorder = RoutingRecorder(torch.nn.Identity())
    recorder.sums["m"] = RouterSums(3)
    recorder.sums["m"].add(output, "a", 2, 1024)
    assert recorder.routers()[0]["load"]["a"] == pytest.approx([0.25, 0.5, 0.25])
    assert recorder.choices()["m"].tolist() == [1, 0, 255, 2]
    assert [row.tolist() for row in recorder.sums["m"].per_item] == [[1, 1, 0], [0, 0, 1]]


def test_a_router_that_may_use_all_experts_is_dense_only_if_it_always_does():
    weights = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    chosen = torch.tensor([[0, 1], [0, 1]])
    for slots, load in ((chosen, [0.75, 0.25]), (torch.tensor([[0, -1], [0, 1]]), [2 / 3, 1 / 3])):
        sums = RouterSums(2)
        sums.add(RouterOutput(weights.log(), weights, weights, slots, weights), "a", 1, 1024)
        assert sums.loads()["a"] == pytest.approx(load)


@pytest.mark.parametrize(("kind", "method"), KINDS)
def test_padding_is_left_out_and_choices_are_capped(kind, method):
    model = make_model(kind, method, moved=True).eval()
    batch = make_batch(kind, rows=2, length=6)
    batch.pop("labels")
    padded = {name: torch.nn.functional.pad(tensor, (0, 3)) for name, tensor in batch.items()}
    found = []
    with torch.no_grad():
        for inputs in (batch, padded):
            with RoutingRecorder(model, choices=7) as recorder:
                model(**inputs)
            found.append(recorder)
    plain, with_padding = found
    for row, other in zip(plain.routers(), with_padding.routers(), strict=True):
        assert row["module"] == other["module"] and row["dead"] == other["dead"]
        assert row["load"]["all"] == pytest.approx(other["load"]["all"], abs=1e-5)
        assert row["entropy"]["all"] == pytest.approx(other["entropy"]["all"], abs=1e-5)
    for name, choices in plain.choices().items():
        assert choices.dtype == numpy.uint8 and len(choices) == 7
        assert choices.tolist() == with_padding.choices()[name].tolist()


def test_tasks_are_told_apart_and_nothing_is_recorded_outside():
    model = make_model("bert", "mixture", moved=True).eval()
    batch = make_batch("bert")
    with torch.no_grad():
        with RoutingRecorder(model) as recorder:
            with recorder.task("first"):
                model(**batch)
            with recorder.task("second"):
                model(**batch)
                model(**batch)
        before = {name: dict(sums.tokens) for name, sums in recorder.sums.items()}
        model(**batch)
    assert {name: sums.tokens for name, sums in recorder.sums.items()} == before
    for sums in recorder.sums.values():
        assert sums.tokens == {"first": 18, "second": 36}
        assert sums.owners == ["first"] * 3 + ["second"] * 6
    for row in recorder.routers():
        assert row["load"]["first"] == pytest.approx(row["load"]["second"])


def test_generation_is_recorded_too():
    model = make_model("llama", "mixlora").eval()
    with RoutingRecorder(model) as recorder:
        model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert {sums.tokens["all"] for sums in recorder.sums.values()} == {5}  # the prompt, then two new tokens


@pytest.mark.parametrize(("experts", "rank", "inner", "outer"), [(2, 1, 5, 3), (4, 3, 7, 11)])
def test_products_equal_those_of_the_whole_increments(experts, rank, inner, outer):
    torch.manual_seed(0)
    a, b = torch.randn(experts, rank, inner), torch.randn(experts, outer, rank)
    increments = (b.double() @ a.double()).flatten(1)
    torch.testing.assert_close(increment_products(a, b), increments @ increments.T)
    slow = torch.nn.functional.cosine_similarity(increments[:, None], increments[None], dim=-1)
    torch.testing.assert_close(increment_cosines(a, b), slow)


@pytest.mark.parametrize(("kind", "method"), KINDS)
def test_factors_are_those_that_the_layers_use(kind, method):
    model = make_model(kind, method, moved=True)
    found = {(module, role): (a, b) for module, role, a, b in expert_factors(model)}
    roles = {("llama", "mixlora"): {"gate", "up", "down"}, ("bert", "mixlora"): {"inner", "outer"}}
    assert {role for _, role in found} - {""} == roles.get((kind, method), set())
    parameters = dict(model.named_parameters())
    stacked = {name: p for name, p in parameters.items() if name.endswith("_A.default")}
    routed = [a for a, _ in found.values() if a.shape[0] > 1]
    assert sum(a.numel() for a, _ in found.values()) == sum(p.numel() for p in stacked.values())
    pointers = {p.data_ptr() for p in stacked.values()}
    assert routed and all(a.data_ptr() in pointers for a in routed)
    for a, b in found.values():
        assert a.shape[1] == b.shape[2] == 4
        wide_b = next(p for p in parameters.values() if p.data_ptr() == b.data_ptr())
        torch.testing.assert_close(b[-1], wide_b[:, -4:])
        torch.testing.assert_close(b[0], wide_b[:, :4])
    if (kind, method) == ("bert", "mixlora"):
        assert {m for m, role in found if role} == {f"bert.encoder.layer.{n}.intermediate" for n in (0, 1)}


def test_a_shared_first_factor_appears_once_per_expert():
    model = make_model("bert", "mixture", moved=True)
    layer = next(m for m in model.modules() if type(m).__name__ == "MixtureLinear")
    shared = torch.nn.Parameter(torch.randn(4, layer.in_features))
    layer.moelora_A["default"] = shared
    a, b = next((a, b) for module, _, a, b in expert_factors(model) if module == layer.module_name)
    assert a.shape == (4, 4, layer.in_features) and b.shape[0] == 4
    assert all(torch.equal(one, shared) for one in a)


@pytest.mark.parametrize(("kind", "method"), KINDS)
def test_similarity_is_undefined_before_training_and_one_for_copies(kind, method):
    model = make_model(kind, method)
    rows = expert_similarity(model)
    assert rows and all((row["mean"], row["max"]) == (None, None) for row in rows)
    with torch.no_grad():
        for _, _, a, b in expert_factors(model):
            a.copy_(torch.randn_like(a[:1]).expand_as(a))
            b.copy_(torch.randn_like(b[:1]).expand_as(b))
            if len(a) > 1:
                b[1].mul_(-3)  # the same direction backwards: minus one with the other three
    for row in expert_similarity(model):
        assert row["max"] == pytest.approx(1)
        assert row["mean"] == pytest.approx((3 - 3) / 6, abs=1e-9)


def diagnosed_run(world, root, document, seed=0):
    path = write_plan(root, document, seed=seed)
    run = open_run(path, "test", world / "data", world / "encoder")
    return run, carry_out(run, evaluate=True)


@pytest.mark.parametrize("method", ["mixlora", "dense_moe_lora"])
def test_a_run_asked_for_diagnostics_records_them_and_keeps_its_number(world, tmp_path, method):
    document = plan("encoder", [task_document("mood"), task_document("odd")], method)
    plain_run, plain = diagnosed_run(world, tmp_path / "plain", document)
    run, found = diagnosed_run(world, tmp_path / "asked", {**document, "diagnostics": {"routing": True}})
    assert run.hash == plain_run.hash and run.key == plain_run.key
    assert found["scores"] == plain["scores"] and plain["diagnostics"] is None
    assert [{k: row[k] for k in old} for row, old in zip(found["routing"], plain["routing"], strict=True)] == (
        plain["routing"]
    )
    for row in found["routing"]:
        assert set(row["entropy"]) == {"tiny-mood", "tiny-odd"}
        assert all(0 < share <= 1 + 1e-9 for share in row["entropy_share"].values())
    said = found["diagnostics"]
    assert said["similarity"] and all(-1 <= row["mean"] <= row["max"] <= 1 for row in said["similarity"])
    path = run.folder / said["choices"]["file"]
    assert sha256_file(path) == said["choices"]["sha256"]
    choices = load_file(path)
    assert set(choices) == {row["module"] for row in found["routing"]}
    assert {len(array) for array in choices.values()} == {said["choices"]["tokens"]} == {sum(said["tokens"].values())}
    assert not (plain_run.folder / "routing.safetensors").exists()


def test_diagnosing_later_trains_nothing_again(world, tmp_path):
    from moelora.cli import main

    document = plan("encoder", [task_document("mood")], "mixlora")
    run, before = diagnosed_run(world, tmp_path, document)
    trained = (run.folder / "train.json").read_bytes()
    options = ["--fingerprint", "test", "--data", str(world / "data"), "--base", str(world / "encoder")]
    plans = ["--plans", str(run.folder / "plan.json")]
    assert main(["evaluate", *plans, *options]) == 0
    assert run.done("record.json")["diagnostics"] is None
    assert main(["evaluate", "--diagnostics", *plans, *options]) == 0
    after = run.done("record.json")
    assert after["diagnostics"]["similarity"] and after["scores"] == before["scores"]
    assert (run.folder / "train.json").read_bytes() == trained


def test_a_method_without_routers_has_nothing_to_diagnose(world, tmp_path):
    document = {**plan("encoder", [task_document("mood")]), "diagnostics": {"routing": True}}
    run, found = diagnosed_run(world, tmp_path, document)
    assert found["diagnostics"] is None and found["routing"] == []
    stamp = (run.folder / "record.json").stat().st_mtime_ns
    carry_out(run, evaluate=True)
    assert (run.folder / "record.json").stat().st_mtime_ns == stamp  # complete as it is


def test_watching_is_no_part_of_a_plans_identity():
    from moelora.config import load_yaml
    from moelora.plans import expand, plan_hash

    config = Path(__file__).parents[2] / "workflow" / "config"
    suite = load_yaml(config / "suites" / "tiny.yaml")
    found = {}
    for watched in (True, False):
        runs = expand({**suite, "diagnostics": {"routing": watched}}, config).runs
        assert {("diagnostics" in run.plan) for run in runs} == {watched}
        found[watched] = {run.folder: plan_hash(run.plan) for run in runs}
    assert found[True] == found[False]
