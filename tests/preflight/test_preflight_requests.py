"""What jobs ask a cluster for. Nothing here needs torch."""

from pathlib import Path

import pytest
import yaml

from moelora.config import ConfigDir
from moelora.errors import ConfigError
from moelora.files import atomic_write_json
from moelora.plans import expand
from moelora.preflight import requests
from moelora.preflight.requests import Need, Requests

REPOSITORY = Path(__file__).parents[2]
CONFIG = ConfigDir(REPOSITORY / "workflow" / "config")
GRID = yaml.safe_load((REPOSITORY / "tests" / "grid.yaml").read_text())


def ask(suite: dict, root: Path = Path("nowhere")) -> Requests:
    return Requests(expand(suite, CONFIG, source="test"), CONFIG, root)


def suite(name: str, **changes) -> dict:
    return yaml.safe_load((REPOSITORY / f"workflow/config/suites/{name}.yaml").read_text()) | changes


def runs(asked: Requests, variant: str, task: "str | None" = None, regime: str = "published") -> list:
    wanted = [run for run in asked.expansion.runs if run.variant.name == variant and run.regime == regime]
    return [run for run in wanted if task in (None, run.task)]


def test_each_try_asks_for_more():
    asked, need = ask(GRID), Need(seconds=6000.0, host_bytes=4 * 10**9, runs=2)
    assert asked.megabytes(need, 1) == requests.START_MB + 6000
    assert asked.minutes(need, 1) == requests.START_MINUTES + 2 * requests.RUN_MINUTES + 200
    for attempt in (2, 3):
        assert asked.megabytes(need, attempt) == attempt * asked.megabytes(need, 1)
        assert asked.minutes(need, attempt) == attempt * asked.minutes(need, 1)


def test_headroom_is_the_suites_to_say():
    need = Need(seconds=6000.0, host_bytes=4 * 10**9)
    asked = ask(GRID | {"preflight": {"memory_factor": 3, "time_factor": 0.5}})
    assert asked.megabytes(need, 1) == requests.START_MB + 12_000
    assert asked.minutes(need, 1) == requests.START_MINUTES + requests.RUN_MINUTES + 50
    with pytest.raises(ConfigError, match="time_factor"):
        ask(GRID | {"preflight": {"time_factor": 0}})


def test_cards_are_asked_for_where_the_suite_names_one_and_the_run_computes():
    assert not ask(GRID).cards
    assert not ask(GRID | {"preflight": {"devices": 4}}).cards  # how many, but not which
    for named in ({"device": "l4-24"}, {"device_memory_gib": 24}):
        asked = ask(GRID | {"preflight": named})
        assert asked.of_runs(runs(asked, "lora")).card
        assert not asked.of_runs(runs(asked, "majority")).card
        assert asked.megabytes(Need(0.0, 0, card=True), 1) == requests.START_MB + requests.CARD_MB
    with pytest.raises(ConfigError, match="unknown device 'l4'"):
        ask(GRID | {"preflight": {"device": "l4"}})


def test_a_card_saves_the_host_time_and_memory():
    host, card = ask(suite("mixlora", preflight=None)), ask(suite("mixlora"))
    (on_host, on_card) = (asked.of_runs(runs(asked, "lora-r80", regime="described")[:1]) for asked in (host, card))
    assert on_card.seconds < on_host.seconds / 100
    assert 13.4e9 < on_card.host_bytes < 20e9  # the weights of Llama 2 7B pass through, and a state of what is trained
    assert on_host.host_bytes > on_card.host_bytes  # activations and gradients too


def test_a_job_needs_the_time_of_all_its_runs_and_the_memory_of_the_largest():
    asked = ask(GRID)
    each = [asked.of_runs([run]) for run in runs(asked, "lora")]
    together = asked.of_runs(runs(asked, "lora"))
    assert together.seconds == pytest.approx(sum(need.seconds for need in each)) and together.runs == len(each) == 5
    assert together.host_bytes == max(need.host_bytes for need in each)
    trained = asked.of_runs(runs(asked, "lora"), scores=False)
    scored = asked.of_runs(runs(asked, "lora"), trains=False)
    assert 0 < scored.seconds < trained.seconds < together.seconds


def test_processes_that_train_together_ask_for_a_card_and_the_memory_each():
    asked = ask(GRID | {"preflight": {"device": "l4-24"}})
    alone, together = (asked.of_runs(runs(asked, "lora"), processes=number) for number in (1, 2))
    assert (asked.cards_of(alone), asked.cards_of(together)) == (1, 2)
    assert asked.megabytes(together, 1) == pytest.approx(2 * asked.megabytes(alone, 1), abs=1)
    assert asked.cards_of(asked.of_runs(runs(asked, "majority"), processes=2)) == 0


def test_longer_runs_ask_for_longer():
    short, long = (ask(GRID | {"training": {"epochs": epochs, "batch_size": 16}}) for epochs in (3, 30))
    few, many = (asked.of_runs(runs(asked, "lora", "sst2"), scores=False).seconds for asked in (short, long))
    assert many == pytest.approx(10 * few, rel=0.05)
    run = runs(short, "lora", "sst2", regime="tuned")[0]
    four = 4 * 0.9 / 3 * short.of_runs([run]).seconds  # rates, of what is left of train, an epoch instead of three
    assert short.of_tuning(run).seconds == pytest.approx(four)
    assert short.of_tuning(run).runs == 4


def test_measured_throughput_counts_instead(tmp_path):
    entry = {"status": "finished", "tokens_per_second": 10.0}
    costs = {"environment": {"device_name": "slow"}, "variants": {"lora": entry}}
    atomic_write_json(tmp_path / "minilm" / "costs.json", costs)
    slow, plain = ask(GRID, tmp_path), ask(GRID)
    assert slow.of_runs(runs(slow, "lora")).seconds > 10 * plain.of_runs(runs(plain, "lora")).seconds
    assert slow.of_runs(runs(slow, "dora")) == plain.of_runs(runs(plain, "dora"))
    (tmp_path / "minilm" / "costs.json").write_text("{")
    damaged = ask(GRID, tmp_path)  # what reads it for its numbers says so
    assert damaged.of_runs(runs(damaged, "lora")) == plain.of_runs(runs(plain, "lora"))


def test_costs_hold_all_variants_and_sensitivities_one_model():
    host, card = ask(GRID), ask(GRID | {"preflight": {"device": "l4-24"}})
    trained = [run.variant.name for run in host.expansion.costs_runs("minilm")]
    largest = max(host.of_runs(runs(host, name)[:1], scores=False).host_bytes for name in trained)
    assert host.of_costs("minilm").host_bytes > 3 * largest > 3 * card.of_costs("minilm").host_bytes
    assert host.of_costs("minilm").runs == len(trained)
    assert 0 < host.of_sensitivity("minilm").host_bytes and card.of_sensitivity("minilm").card


def test_what_no_file_says_the_size_of_is_asked_for_in_bulk():
    asked = ask(suite("tiny"))
    unknown = asked.of_unknown()
    carried = runs(asked, "lora")
    assert asked.of_runs(carried).seconds == len(carried) * unknown.seconds
    assert asked.of_runs(carried).host_bytes == unknown.host_bytes
    assert asked.of_sensitivity("tiny-encoder") == unknown
    assert asked.of_costs("tiny-encoder").seconds >= unknown.seconds
