"""What a job asks a cluster for: memory of its host, minutes, and a card where the suite names one.

An estimate errs to either side, and a job that asked for too little is killed. So a request is the estimate with
headroom, on top of what any process takes, and it grows with every attempt.
"""

import dataclasses
from collections.abc import Iterable
from functools import reduce
from math import ceil
from operator import add
from pathlib import Path
from typing import Any

from moelora.config import ConfigDir
from moelora.errors import ConfigError, RecordError
from moelora.methods import Counts
from moelora.plans.expansion import Expansion, Run
from moelora.plans.variants import is_untrained
from moelora.preflight import operations
from moelora.preflight.counting import count_variant
from moelora.preflight.devices import Device, choose_device
from moelora.preflight.estimate import STATE, load_of, scoring_seconds, sensitivity_load, training_seconds
from moelora.preflight.lengths import read_facts, run_length, tuning_length
from moelora.preflight.measured import read_throughput
from moelora.preflight.memory import Load
from moelora.shapes import known_sizes, shapes_of

MEMORY_FACTOR, TIME_FACTOR = 1.5, 2.0
"""Headroom over an estimate; a suite may say others in ``preflight``."""
START_MB, CARD_MB = 2000, 4000
"""Of the host, in MB: what a process takes before any model, and what the libraries of a card take beside that."""
START_MINUTES, RUN_MINUTES = 10, 1
"""Of a job and of each of its runs, beside the estimate: imports from a cold disk, loading, writing."""
UNKNOWN_BYTES, UNKNOWN_SECONDS = 10**9, 600.0
"""Of a run on a model or data set whose size no file states: those that the suite makes itself are small."""
THREAD_TERAFLOPS, HOST_BANDWIDTH = 0.1, 5e9
"""Taken of a host without a card: the peak of one thread, and bytes a second. Low, so that old nodes keep up."""
HOST_GAPS = 5
"""How often a host without a card holds what a step takes beside the weights: its allocator leaves gaps. A small BERT's
LoRA and MixLoRA were seen to take 3.5 and 4.5 times as much."""
READING = 2e8
"""Bytes a second at which a base model is taken to come from a shared disk."""


@dataclasses.dataclass(frozen=True)
class Need:
    """What a job is taken to need, without headroom.

    Attributes:
        seconds: Of computing.
        host_bytes: Of the host's memory, beside what any process takes.
        runs: How many runs it carries.
        card: Whether it computes on a card.
        processes: That carry the job out together, each with a card of its own and all of the memory.
    """

    seconds: float
    host_bytes: int
    runs: int = 1
    card: bool = False
    processes: int = 1

    def __add__(self, other: "Need") -> "Need":
        """Return the need of two one after the other in a process."""
        return Need(
            self.seconds + other.seconds,
            max(self.host_bytes, other.host_bytes),
            self.runs + other.runs,
            self.card or other.card,
            max(self.processes, other.processes),
        )


class Requests:
    """What the jobs of a suite ask for.

    Args:
        expansion: The suite. It wants cards where its ``preflight`` names one, by ``device`` or ``device_memory_gib``.
        config_dir: Where the facts about data sets are.
        root: The suite's folder of results, whose cost records are used where there are any.

    Raises:
        ConfigError: the card's name is unknown.
    """

    def __init__(self, expansion: Expansion, config_dir: ConfigDir, root: Path):
        self.expansion, self._config_dir, self._root = expansion, config_dir, root
        asked = expansion.suite["preflight"] or {}
        self.cards = bool(asked.get("device") or asked.get("device_memory_gib"))
        self._memory_factor = asked.get("memory_factor", MEMORY_FACTOR)
        self._time_factor = asked.get("time_factor", TIME_FACTOR)
        threads = expansion.suite["threads"]
        host = Device("the host", None, threads * THREAD_TERAFLOPS, HOST_BANDWIDTH)
        self._device = choose_device(asked) if self.cards else host
        self._facts: Any = None
        self._measured: Any = None
        self._counts: dict[tuple[str, str], Counts] = {}

    def megabytes(self, need: Need, attempt: int) -> int:
        """Return the memory of the host that the job's ``attempt``-th try asks for, in MB; the first is 1."""
        start = START_MB + (CARD_MB if need.card else 0)
        return attempt * ceil(need.processes * (start + self._memory_factor * need.host_bytes / 1e6))

    def minutes(self, need: Need, attempt: int) -> int:
        """Return the time limit that the job's ``attempt``-th try asks for."""
        return attempt * ceil(START_MINUTES + RUN_MINUTES * need.runs + self._time_factor * need.seconds / 60)

    def cards_of(self, need: Need) -> int:
        """Return how many cards a job asks for."""
        return need.processes if need.card else 0

    def of_unknown(self) -> Need:
        """Return the need of work of which no file says how much it is."""
        return Need(UNKNOWN_SECONDS, UNKNOWN_BYTES, card=self.cards)

    def of_runs(self, runs: Iterable[Run], *, trains: bool = True, scores: bool = True, processes: int = 1) -> Need:
        """Return the need of a job that trains runs, scores them, or both, one after the other."""
        need = reduce(add, (self._of_run(run, trains, scores) for run in runs))
        return dataclasses.replace(need, processes=processes)

    def of_tuning(self, run: Run) -> Need:
        """Return the need of choosing a learning rate by trials that vary a run's plan."""
        once, tune = self._of_run(run, True, True), self.expansion.suite["regimes"][run.regime]["tune"]
        share = trials = len(tune["learning_rates"])
        try:
            whole = run_length(run.plan, self._known_facts(), untrained=False)
            share = tuning_length(run.plan, tune, self._known_facts()) / whole.tokens
        except ConfigError:  # nothing is known of its length: each trial is taken to be as long as the run
            pass
        return dataclasses.replace(once, seconds=share * once.seconds, runs=trials)

    def of_sensitivity(self, model: str) -> Need:
        """Return the need of measuring a model's sensitivities to all its tasks, or how their samples agree."""
        document = self.expansion.models[model]
        sizes = known_sizes(document)
        if sizes is None:
            return self.of_unknown()
        try:
            seconds, load = sensitivity_load(self.expansion, document, sizes, self._known_facts(), self._device)
        except ConfigError:
            return self.of_unknown()
        return Need(seconds, self._host_bytes(load, load.training), card=self.cards)

    def of_costs(self, model: str) -> Need:
        """Return the need of the cost measurement: few steps, but all variants of a model are held at once."""
        needs = [self._of_run(run, True, False) for run in self.expansion.costs_runs(model)]
        if not needs:
            return self.of_unknown()
        held = [need.host_bytes for need in needs]
        seconds = UNKNOWN_SECONDS + sum(held) / READING
        return Need(seconds, max(held) if self.cards else sum(held), len(needs), self.cards)

    def _of_run(self, run: Run, trains: bool, scores: bool) -> Need:
        document = self.expansion.models[run.model]
        sizes, untrained = known_sizes(document), is_untrained(run.variant, document)
        card = self.cards and (not untrained or run.variant.abilities.reads_input)
        if sizes is None:
            return dataclasses.replace(self.of_unknown(), card=card)
        try:
            length = run_length(run.plan, self._known_facts(), untrained)
            counts = self._count(run, document)
        except ConfigError:  # of a data set that nothing is known of; the run itself may do without
            return dataclasses.replace(self.of_unknown(), card=card)
        load = load_of(run, document, sizes, counts, length)
        adapter = operations.adapter_operations(counts)
        extra = operations.extra_products(run.variant.method, run.variant.settings, sizes)
        seconds, held = 0.0, 0
        if trains and not untrained:
            held = load.training
            known = self._known_throughput().get((run.model, run.variant.name))
            seconds = (
                length.tokens / known["tokens_per_second"]
                if known
                else training_seconds(run, length, sizes, adapter, extra, self._device)
            )
        if scores and run.variant.abilities.reads_input:
            held = max(held, load.scoring)
            seconds += scoring_seconds(length, sizes, adapter + extra, load, self._device)
        if held:
            seconds += load.weights / READING
        return Need(seconds, self._host_bytes(load, held), card=card)

    def _host_bytes(self, load: Load, held: int) -> int:
        """Return the bytes on the host: all that is held there, or what passes through it on the way to a card."""
        if not held:
            return 0
        if self.cards:
            return load.weights + STATE * load.trainable
        return load.weights + HOST_GAPS * (held - load.weights)

    def _count(self, run: Run, document: Any) -> Counts:
        key = (run.model, run.variant.name)
        if key not in self._counts:
            outputs = [len(task["labels"]) or 1 for task in run.plan["tasks"] if task["kind"] != "multiple_choice"]
            voters = len(self.expansion.model_tasks(run.model))
            self._counts[key] = count_variant(run.variant, shapes_of(document, outputs), voters)
        return self._counts[key]

    def _known_facts(self) -> Any:
        if self._facts is None:
            self._facts = read_facts(self._config_dir)
        return self._facts

    def _known_throughput(self) -> Any:
        if self._measured is None:
            try:
                self._measured = read_throughput(self._root, self.expansion.used_models)
            except RecordError:  # who reads it for its numbers says so; a request can do without
                self._measured = {}
        return self._measured
