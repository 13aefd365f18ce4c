"""How often a mixture shows each of its tasks: totals, passes, independence and resuming."""

import collections
import itertools
import math

import pytest
from world import plan, task_document, write_plan

from moelora.files import sha256_file
from moelora.training.encode import Encoded
from moelora.training.identity import open_run
from moelora.training.mixing import interleave, next_examples, task_counts
from moelora.training.order import all_steps, epoch_batches
from moelora.training.run import carry_out

SIZES = {"a": 300, "b": 60, "c": 15}


def examples(sizes=SIZES):
    return [Encoded(task, i, tuple(range(1 + i * 7 % 13)), (), 0) for task, n in sizes.items() for i in range(n)]


def seen(steps):
    return collections.Counter(example.task for batch in steps for example in batch)


@pytest.mark.parametrize("sampling", ["proportional", "equal", {"temperature": 2}, {"temperature": 0.5}])
def test_every_way_of_mixing_has_the_same_total_and_leaves_no_task_out(sampling):
    counts = task_counts(SIZES, sampling)
    assert sum(counts.values()) == sum(SIZES.values()) and min(counts.values()) >= 1
    assert list(counts) == list(SIZES)


def test_shares_are_those_of_the_formula():
    total = sum(SIZES.values())
    assert task_counts(SIZES) == task_counts(SIZES, {"temperature": 1}) == SIZES
    assert task_counts(SIZES, "equal") == dict.fromkeys(SIZES, total // 3)
    roots = {task: math.sqrt(size) for task, size in SIZES.items()}
    for task, count in task_counts(SIZES, {"temperature": 2}).items():
        assert abs(count - total * roots[task] / sum(roots.values())) < 1
    # far below one the largest task is nearly all there is, and far above the shares are equal
    assert task_counts(SIZES, {"temperature": 0.01}) == {"a": total - 2, "b": 1, "c": 1}
    assert task_counts(SIZES, {"temperature": 1e9}) == task_counts(SIZES, "equal")


@pytest.mark.parametrize("sampling", ["eqal", {"temperature": 0}, {"temperature": -2}, {"temperature": math.nan}, {}])
def test_nonsense_is_refused(sampling):
    with pytest.raises(ValueError, match="expected proportional, equal or a temperature above 0"):
        task_counts(SIZES, sampling)


def test_a_small_task_comes_in_whole_passes_of_fresh_shuffles():
    group = [example for example in examples() if example.task == "c"]
    stream = [x.item for epoch in range(3) for x in next_examples(group, "c", 40, 0, epoch)]
    passes = [stream[start : start + 15] for start in range(0, 120, 15)]
    assert all(sorted(one) == list(range(15)) for one in passes)
    assert all(one != other for one, other in itertools.combinations(passes, 2))


def test_a_large_task_goes_on_where_the_last_epoch_stopped():
    group = [example for example in examples() if example.task == "a"]
    stream = [x.item for epoch in range(3) for x in next_examples(group, "a", 125, 0, epoch)]
    assert sorted(stream[:300]) == list(range(300)) and max(collections.Counter(stream).values()) == 2


@pytest.mark.parametrize("by_task", [True, False])
@pytest.mark.parametrize("sampling", ["equal", {"temperature": 2}])
def test_the_steps_hold_what_was_counted(by_task, sampling):
    steps = all_steps(examples(), 8, 0, epochs=2, max_steps=None, by_task=by_task, sampling=sampling)
    assert seen(steps) == {task: 2 * count for task, count in task_counts(SIZES, sampling).items()}
    if by_task:
        assert all(len({x.task for x in batch}) == 1 for batch in steps)
    again = all_steps(examples(), 8, 0, epochs=2, max_steps=None, by_task=by_task, sampling=sampling)
    other = all_steps(examples(), 8, 1, epochs=2, max_steps=None, by_task=by_task, sampling=sampling)
    assert steps == again != other


@pytest.mark.parametrize("by_task", [True, False])
def test_proportional_is_the_order_that_there_was(by_task):
    plain = all_steps(examples(), 8, 3, epochs=2.5, max_steps=None, by_task=by_task)
    for sampling in ("proportional", {"temperature": 1}):
        named = all_steps(examples(), 8, 3, epochs=2.5, max_steps=None, by_task=by_task, sampling=sampling)
        assert named == plain
    alike = {"a": 40, "b": 40}
    equal = all_steps(examples(alike), 8, 3, epochs=2, max_steps=None, by_task=by_task, sampling="equal")
    assert equal == all_steps(examples(alike), 8, 3, epochs=2, max_steps=None, by_task=by_task)


def test_passes_of_a_task_by_itself_are_those_of_its_epochs():
    # the stream of a task that is seen as often as alone is the order that it has alone
    mine = epoch_batches(examples(), 8, 5, 1, by_task=True, counts=SIZES)
    assert mine == epoch_batches(examples(), 8, 5, 1, by_task=True)


def test_a_batch_of_a_mixed_decoder_seldom_holds_an_example_twice():
    many = examples({"a": 3000, "b": 600, "c": 150})  # c is seen more than three times an epoch
    steps = all_steps(many, 4, 0, epochs=1, max_steps=None, by_task=False, sampling={"temperature": 2})
    assert seen(steps)["c"] > 3 * 150
    twice = sum(len(batch) - len({(x.task, x.item) for x in batch}) for batch in steps)
    assert twice <= 0.002 * len(many)


def test_interleaving_spreads_each_task_evenly_and_keeps_its_order():
    streams = {"a": [("a", i) for i in range(300)], "c": [("c", i) for i in range(15)]}
    mixed = interleave(streams, 0, 0)
    assert [x for x in mixed if x[0] == "c"] == streams["c"] and [x for x in mixed if x[0] == "a"] == streams["a"]
    places = [place for place, x in enumerate(mixed) if x[0] == "c"]
    assert all(place // 21 == number for number, place in enumerate(places))  # one in every fifteenth part


def mixture(method="lora", **training):
    tasks = [task_document("mood"), task_document("odd"), task_document("grade", "regression")]
    return plan("encoder", tasks, method, **{"max_steps": None, "epochs": 2, **training})


def run_once(world, root, document, **options):
    run = open_run(write_plan(root, document, **options), "test", world / "data", world / "encoder")
    return run, carry_out(run, evaluate=True)


def test_the_record_says_how_many_examples_each_task_gave(world, tmp_path, monkeypatch):
    import moelora.training.fit as fit_module
    import moelora.training.run as run_module

    real = run_module.load_tasks

    def uneven(document, data_dir):
        import dataclasses

        sizes = {"tiny-mood": 64, "tiny-odd": 16, "tiny-grade": 10}
        return [dataclasses.replace(task, train=task.train[: sizes[task.name]]) for task in real(document, data_dir)]

    for module in (run_module, fit_module):
        monkeypatch.setattr(module, "load_tasks", uneven)
    _, plain = run_once(world, tmp_path / "plain", mixture())
    _, equal = run_once(world, tmp_path / "equal", mixture(sampling="equal"))
    _, other = run_once(world, tmp_path / "other", mixture("dense_moe_lora", sampling="equal"))
    assert plain["training"]["examples_by_task"] == {"tiny-mood": 128, "tiny-odd": 32, "tiny-grade": 20}
    assert equal["training"]["examples_by_task"] == dict.fromkeys(("tiny-mood", "tiny-odd", "tiny-grade"), 60)
    assert equal["training"]["examples"] == plain["training"]["examples"] == 180
    for key in ("examples", "tokens", "steps", "examples_by_task"):  # the data know nothing of the method
        assert equal["training"][key] == other["training"][key]


def test_a_sampled_mixture_resumes_with_the_same_bits(world, tmp_path, monkeypatch):
    import moelora.training.loop as loop

    document = mixture(sampling={"temperature": 3}, checkpoint_every_steps=5)
    document["settings"]["dropout"] = 0.1
    whole, record = run_once(world, tmp_path / "whole", document)
    real, calls = loop.one_step, []

    def broken(*arguments, **options):
        calls.append(1)
        if len(calls) == 18:
            raise RuntimeError("the power went")
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "one_step", broken)
    run, failed = run_once(world, tmp_path / "cut", document)
    assert failed["status"] == "failed"
    monkeypatch.setattr(loop, "one_step", real)
    resumed = carry_out(run, evaluate=True)
    assert resumed["training"]["resumed"] == 1
    assert resumed["training"]["examples_by_task"] == record["training"]["examples_by_task"]
    assert resumed["training"]["loss_curve"] == record["training"]["loss_curve"]
    name = "adapter/adapter_model.safetensors"
    assert sha256_file(run.folder / name) == sha256_file(whole.folder / name)
