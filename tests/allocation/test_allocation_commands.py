"""``moelora sensitivity`` and ``moelora allocate``, from plans to files; and the public repository's example."""

import json
import random
from collections import Counter

import pytest
from world import plan, task_document, write_plan

from moelora.allocation.command import make_allocation
from moelora.allocation.settings import SCORES
from moelora.cli import main
from moelora.errors import AllocationError, ConfigError, RecordError
from moelora.files import atomic_write_json

HISTOGRAM = {8: 51, 7: 17, 6: 10, 5: 6, 4: 7, 3: 7, 2: 7, 1: 8, 0: 31}
TOTALS = {"q_proj": 117, "k_proj": 149, "v_proj": 225, "o_proj": 197}


def tables(folder, scores: dict, modules: list[dict]) -> list:
    """Write a sensitivity file a task and return their paths."""
    paths = []
    for task, by_module in scores.items():
        rows = [{**module, "score": by_module[module["module"]]} for module in modules]
        document = {"schema": 2, "model": "m", "task": task, "score": "sum", "modules": rows}
        atomic_write_json(folder / f"{task}.json", document)
        paths.append(folder / f"{task}.json")
    return paths


def attention(layers: int) -> list[dict]:
    """Return the rows of a model of 36 layers, attention and one feed-forward module, without scores."""
    kinds = [*((kind, "attention") for kind in TOTALS), ("up_proj", "feed_forward")]
    return [
        {"module": f"model.layers.{layer}.{'self_attn' if part == 'attention' else 'mlp'}.{kind}", "layer": layer,
         "type": kind, "part": part, "shape": [16, 16]}
        for layer in range(layers)
        for kind, part in kinds
    ]  # fmt: skip


def counts_of_the_example() -> dict[str, int]:
    """Return counts for 36 layers with the published example's totals per type and histogram, placed by lot.

    The first of the draws in which the types' totals come out; the example's own placement is not copied.
    """
    counts = [count for count, number in HISTOGRAM.items() for _ in range(number)]
    generator = random.Random(0)
    generator.shuffle(counts)
    groups = {kind: counts[36 * place : 36 * (place + 1)] for place, kind in enumerate(TOTALS)}
    excess = {kind: sum(group) - TOTALS[kind] for kind, group in groups.items()}
    while any(excess.values()):  # swap a large count of a rich type for a smaller one of a poor type
        rich, poor = max(excess, key=excess.get), min(excess, key=excess.get)
        a, b = generator.randrange(36), generator.randrange(36)
        gain = groups[rich][a] - groups[poor][b]
        if 0 < gain <= min(excess[rich], -excess[poor]):
            groups[rich][a], groups[poor][b] = groups[poor][b], groups[rich][a]
            excess[rich] -= gain
            excess[poor] += gain
    return {
        f"model.layers.{layer}.self_attn.{kind}": groups[kind][layer] for kind in TOTALS for layer in range(36)
    }  # fmt: skip


def votes_for(counts: dict[str, int], tasks: int, chosen: int) -> dict[str, set[str]]:
    """Return who votes for whom such that each module gets its count and each task names as many (Gale and Ryser)."""
    votes = {f"task{t}": set() for t in range(tasks)}
    for module, count in sorted(counts.items(), key=lambda item: -item[1]):
        for task in sorted(votes, key=lambda t: len(votes[t]))[:count]:
            votes[task].add(module)
    assert {len(modules) for modules in votes.values()} == {chosen}
    return votes


def test_the_public_example_is_what_its_votes_give(tmp_path, capsys):
    """113 modules, 688 = 8 x 86 experts, the totals per type and the histogram, from scores made to vote so."""
    wanted = counts_of_the_example()
    assert sum(wanted.values()) == 688 == 8 * 86 and Counter(wanted.values()) == HISTOGRAM
    votes = votes_for(wanted, 8, 86)
    generator = random.Random(1)
    modules = attention(36)
    scores = {
        task: {
            row["module"]: generator.uniform(10, 20) if row["module"] in chosen else generator.uniform(0, 9)
            for row in modules
        }
        for task, chosen in votes.items()
    }
    paths = tables(tmp_path, scores, modules)
    counts_file, out = tmp_path / "counts.json", tmp_path / "allocation.json"
    arguments = ["allocate", "--strategy", "smoe_percentile", "--percentile", "40", "--pool", "attention",
                 "--sensitivity", *map(str, paths), "--counts", str(counts_file), "--out", str(out)]  # fmt: skip
    assert main(arguments) == 0
    public = json.loads(counts_file.read_text())  # the repository's form: no module of count 0
    assert len(public) == 113 and sum(public.values()) == 688
    assert Counter(public.values()) == {count: number for count, number in HISTOGRAM.items() if count}
    for kind, total in TOTALS.items():
        assert sum(count for module, count in public.items() if module.endswith(kind)) == total
    document = json.loads(out.read_text())
    assert document["experts"] == {**wanted, **{m["module"]: 0 for m in modules if m["part"] == "feed_forward"}}
    assert document["budget"] == 688 and document["settings"]["pool"] == "attention"
    # and read again: what the file does not name has no experts
    arguments = ["allocate", "--sensitivity", *map(str, paths), "--given", str(counts_file), "--out", str(out)]
    assert main([*arguments, "--strategy", "greedy"]) == 2
    assert "leave one of the two out" in capsys.readouterr().err
    assert main(arguments) == 0
    again = json.loads(out.read_text())
    assert again["experts"] == document["experts"] and again["parameters"] == document["parameters"]
    assert again["strategy"] == "given"
    # the abstract's budget by the same votes: at their own total nothing changes, at half of it every count halves
    same = make_allocation(paths, {"strategy": "smoe_budget", "budget": {"experts": 688}, "pool": "attention"})
    assert same["experts"] == document["experts"]
    half = make_allocation(paths, {"strategy": "smoe_budget", "budget": {"experts": 344}, "pool": "attention"})
    assert half["budget"] == 344
    assert all(abs(2 * half["experts"][m] - count) <= 1 for m, count in document["experts"].items())


def test_from_plans_to_scores_and_allocations(world, tmp_path, capsys):
    tasks = [task_document("mood"), task_document("odd")]
    path = write_plan(tmp_path, plan("encoder", tasks, "lora_smoe"))
    common = ["sensitivity", "--plan", str(path), "--data", str(world / "data"), "--base", str(world / "encoder"),
              "--examples", "15", "--task", *(task["name"] for task in tasks)]  # fmt: skip
    assert main([*common, "--out", "one.json"]) == 2
    assert "found 2 tasks, 1 plans and 1 files to write" in capsys.readouterr().err
    files = {}
    for score in SCORES:
        files[score] = [str(tmp_path / score / f"{task['name']}.json") for task in tasks]
        assert main([*common, "--score", score, "--out", *files[score]]) == 0
    found = {score: json.loads((tmp_path / score / "tiny-mood.json").read_text()) for score in SCORES}
    assert {score: document["examples"] for score, document in found.items()} == dict.fromkeys(SCORES, 15) | {
        "as_coded": 14
    }
    for score, document in found.items():
        assert document["score"] == score and document["task"] == "tiny-mood" and len(document["modules"]) == 12
        assert any(row["score"] for row in document["modules"])
    for ours, corrected in zip(found["sum"]["modules"], found["mean"]["modules"], strict=True):
        assert set(ours) == {"module", "layer", "type", "part", "shape", "score"}
        assert ours["score"] / (ours["shape"][0] * ours["shape"][1]) == pytest.approx(corrected["score"], rel=1e-6)

    out = tmp_path / "allocation.json"
    arguments = ["allocate", "--sensitivity", *files["sum"], "--out", str(out)]
    assert main(arguments) == 0
    document = json.loads(out.read_text())
    assert document["strategy"] == "smoe_percentile"
    assert document["budget"] == sum(document["experts"].values()) > 0
    assert set(document["experts"].values()) <= {0, 1, 2}
    assert main([*arguments, "--strategy", "smoe_percent"]) == 2
    assert "unknown strategy 'smoe_percent'; did you mean 'smoe_percentile'?" in capsys.readouterr().err
    assert main([*arguments, "--strategy", "greedy", "--experts", "30"]) == 0
    assert json.loads(out.read_text())["budget"] == 30
    settings = json.dumps({"strategy": "smoe_budget", "budget": {"parameters": 6000}, "score": "fisher"})
    method = ["--method-settings", json.dumps({"r": 2, "modules": ["query", "value"]})]
    assert main([*arguments, "--settings", settings, *method]) == 2
    assert "asks for sensitivities of score 'fisher', found 'sum'" in capsys.readouterr().err
    arguments[2:4] = files["fisher"]
    assert main([*arguments, "--settings", settings, *method]) == 0
    document = json.loads(out.read_text())
    assert set(document["types"].values()) == {"query", "value"} == {m.split(".")[-1] for m in document["experts"]}
    assert 6000 - (2 * 32 + 16) < document["parameters"] <= 6000  # an expert is r (16 + 16) and 16 of a router


def test_stability_of_a_sample(world, tmp_path, capsys):
    path = write_plan(tmp_path, plan("encoder", [task_document("mood")], "lora_smoe"))
    out = tmp_path / "stability.json"
    arguments = ["sensitivity", "--plan", str(path), "--task", "tiny-mood", "--data", str(world / "data"),
                 "--base", str(world / "encoder"), "--stability", "4,16,32,9999", "--seeds", "0,1",
                 "--out", str(out)]  # fmt: skip
    assert main(arguments) == 0
    document = json.loads(out.read_text())
    assert document["available"] == 64 and document["seeds"] == [0, 1]
    assert document["votes"] == {"percentile": 40, "pool": "per_type"}
    assert [(row["against"], row["examples"], row["seeds"]) for row in document["rows"]] == [
        ("same_size", 4, [0, 1]), ("largest", 4, [0, 1]), ("largest", 4, [1, 0]),
        ("same_size", 16, [0, 1]), ("largest", 16, [0, 1]), ("largest", 16, [1, 0]),
        ("same_size", 32, [0, 1]),
    ]  # fmt: skip
    assert all(-1 <= row["spearman"] <= 1 for row in document["rows"])
    assert main([*arguments, "--score", "as_coded"]) == 2
    assert "measured at the same weights" in capsys.readouterr().err
    assert main([*arguments, "--seeds", "3"]) == 2
    assert "give two seeds at least" in capsys.readouterr().err
    assert main([*arguments, "--votes", '{"pool": "layers"}']) == 2
    assert "unknown pool 'layers'" in capsys.readouterr().err


def test_files_that_do_not_belong_together(tmp_path):
    modules = attention(2)
    scores = {f"task{t}": {row["module"]: float(i + t) for i, row in enumerate(modules)} for t in range(2)}
    paths = tables(tmp_path, scores, modules)
    good = json.loads(paths[1].read_text())

    def refusal(error, **changes) -> str:
        atomic_write_json(paths[1], {**good, **changes})
        with pytest.raises(error) as caught:
            make_allocation(paths, {})
        return str(caught.value)

    assert "different models" in refusal(AllocationError, model="n")
    assert "different scores" in refusal(AllocationError, score="fisher")
    assert "several sensitivities of one task" in refusal(AllocationError, task="task0")
    assert "scores other modules than task 'task0'" in refusal(AllocationError, modules=good["modules"][1:])
    assert "expected a number from 0" in refusal(
        AllocationError, modules=[{**r, "score": -1.0} for r in good["modules"]]
    )
    assert "not of the expected form" in refusal(RecordError, score="sum over examples")
    assert "not of the expected form" in refusal(RecordError, modules=[{"module": "a"}])
    paths[1].write_text("{")
    with pytest.raises(RecordError, match="truncated or not JSON"):
        make_allocation(paths, {})


def test_methods_without_an_allocation_are_refused(tmp_path):
    modules = attention(2)
    paths = tables(tmp_path, {"t": {row["module"]: 1.0 + i for i, row in enumerate(modules)}}, modules)
    with pytest.raises(AllocationError, match="method 'mola' takes no allocation"):
        make_allocation(paths, {}, "mola")
    with pytest.raises(ConfigError, match="unknown modules 'qery'"):
        make_allocation(paths, {}, "lora_smoe", {"modules": "qery"})


def test_overflow_is_written_as_null_and_read_as_most_sensitive(tmp_path):
    modules = attention(3)
    by_module = {row["module"]: 1.0 + i for i, row in enumerate(modules)}
    by_module["model.layers.0.self_attn.q_proj"] = None
    paths = tables(tmp_path, {"t": by_module}, modules)
    found = make_allocation(paths, {"percentile": 50})["experts"]
    assert found["model.layers.0.self_attn.q_proj"] == 1 and found["model.layers.1.self_attn.q_proj"] == 0
