"""One comparison: a workload, the adapters' settings, a mode, and all variants of it interleaved in this process."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench import measure, sensitivity
from bench.rivals import NotInstalledError
from bench.variants import INFERENCE, REFERENCE, SENSITIVITY, TRAINING, VARIANTS, Settings, build
from bench.workloads import Batch, Workload, build_base

FAILED, MISSING, MEASURED = "failed", "not installed", "measured"


@dataclasses.dataclass(frozen=True)
class Timing:
    """How often and by which clock.

    Args:
        rounds: Rounds that count.
        warmup: Rounds before them.
        clock: What ratios are formed from: "cpu", "wall" or, on a GPU, "device".
    """

    rounds: int = 9
    warmup: int = 1
    clock: str = "cpu"


@dataclasses.dataclass
class Contender:
    """A variant that is ready to take a step.

    Args:
        title: What tables call it.
        peer: The variant of ours that computes the same.
        step: One step.
        trainable: Its trainable tensors.
    """

    title: str
    peer: str | None
    step: Callable[[], Any]
    trainable: list[Tensor]


def names_of(mode: str, workload: Workload, chosen: Sequence[str] | None = None) -> list[str]:
    """Return the names of a mode's rows: the reference and those that were chosen, all by default."""
    if mode == SENSITIVITY:
        return [REFERENCE, *sensitivity.TITLES] if workload.kind == "model" else []
    names = [
        name
        for name, variant in VARIANTS.items()
        if mode in variant.modes and variant.device in (None, workload.device)
    ]
    return [name for name in names if chosen is None or name in chosen or name == REFERENCE]


def _training_step(batch: Batch, model: nn.Module, trainable: list[Tensor]) -> None:
    batch.train(model)
    _clear(trainable)


def _clear(trainable: list[Tensor]) -> None:
    for tensor in trainable:
        tensor.grad = None


def _enter(name: str, mode: str, base: nn.Module, workload: Workload, settings: Settings, batch: Batch) -> Contender:
    """Build a variant and let it take its first step.

    Raises:
        NotInstalledError: The package that it needs cannot be imported.
    """
    if name in sensitivity.TITLES:
        try:
            step = sensitivity.make_step(name, base, workload, batch)
        except ImportError as error:
            raise NotInstalledError(f"{error.name} is not installed: pip install -r requirements.lock") from error
        contender = Contender(sensitivity.TITLES[name], sensitivity.PEERS.get(name), step, [])
    else:
        model, trainable = build(name, base, workload, settings, training=mode != INFERENCE)
        variant = VARIANTS[name]
        if mode == INFERENCE:
            step = functools.partial(batch.infer, model)
        elif mode == TRAINING:
            step = functools.partial(_training_step, batch, model, trainable)
        else:
            forward_backward = sensitivity.lora_step(model, batch)

            def step() -> None:
                forward_backward()
                _clear(trainable)

        contender = Contender(variant.title, variant.peer, step, trainable)
    contender.step()
    return contender


def hold(
    workload: Workload,
    settings: Settings,
    mode: str,
    timing: Timing,
    chosen: Sequence[str] | None = None,
    stopwatch: Any = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure all variants of a comparison and return it as a group of a record.

    A variant that cannot take part is a row with its reason, never a hole.

    Args:
        workload: What is computed.
        settings: The adapters' numbers.
        mode: "training", "inference" or "sensitivity".
        timing: Rounds, warm-up and clock.
        chosen: Variants beside the reference; None for all of the mode.
        stopwatch: Another one than `bench.measure.Stopwatch`.
        report: Told what is going on.
    """
    stopwatch = stopwatch or measure.Stopwatch(workload.device)
    base = build_base(workload)
    batch = Batch(workload, base)
    rows: dict[str, dict[str, Any]] = {}
    contenders: dict[str, Contender] = {}
    for name in names_of(mode, workload, chosen):
        title = sensitivity.TITLES.get(name) or VARIANTS[name].title
        rows[name] = {"name": name, "title": title, "status": MEASURED, "reason": None}
        try:
            contenders[name] = _enter(name, mode, base, workload, settings, batch)
        except NotInstalledError as error:
            rows[name] |= {"status": MISSING, "reason": str(error)}
        except torch.OutOfMemoryError as error:
            rows[name] |= {"status": FAILED, "reason": f"out of memory: {str(error).splitlines()[0]}"}
        except Exception as error:
            # The packages run with libraries that they were not made for; ours has no such excuse, but its failure
            # is seen (`own_failures`) and need not cost the other rows. Without the reference there is no ratio.
            if name == REFERENCE:
                raise
            rows[name] |= {"status": FAILED, "reason": f"{type(error).__name__}: {str(error) or 'no message'}"}
    steps = {name: contender.step for name, contender in contenders.items()}
    say = report or (lambda text: None)
    seconds = measure.time_rounds(steps, timing.rounds, timing.warmup, stopwatch, lambda number: say(f"round {number}"))
    frozen = [*base.parameters(), *base.buffers()]
    for name, contender in contenders.items():
        rows[name] |= _results(contender, seconds[name], seconds[REFERENCE], timing, workload, mode, frozen)
    return {
        "workload": dataclasses.asdict(workload),
        "settings": dataclasses.asdict(settings),
        "mode": mode,
        "reference": REFERENCE,
        "clock": timing.clock,
        "rounds": timing.rounds,
        "warmup": timing.warmup,
        "rows": list(rows.values()),
    }


def own_failures(group: dict[str, Any]) -> list[str]:
    """Return the names of failed variants that need no other package."""
    return [
        row["name"]
        for row in group["rows"]
        if row["status"] == FAILED and getattr(VARIANTS.get(row["name"]), "package", None) is None
    ]


def _results(
    contender: Contender,
    seconds: dict[str, list[float]],
    reference: dict[str, list[float]],
    timing: Timing,
    workload: Workload,
    mode: str,
    frozen: list[Tensor],
) -> dict[str, Any]:
    clock = timing.clock
    low, middle, high = measure.spread(measure.ratios(seconds[clock], reference[clock]))
    _, median, _ = measure.spread(seconds[clock])
    known = [*frozen, *contender.trainable]
    return {
        "peer": contender.peer,
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "median_seconds": {name: measure.spread(values)[1] for name, values in seconds.items()},
        "tokens_per_second": workload.tokens / median,
        "seconds": {name: [round(value, 6) for value in values] for name, values in seconds.items()},
        "trainable": sum(tensor.numel() for tensor in contender.trainable),
        "saved_bytes": None if mode == INFERENCE else measure.saved_bytes(contender.step, known),
        "peak_bytes": measure.peak_bytes(contender.step, workload.device),
    }
