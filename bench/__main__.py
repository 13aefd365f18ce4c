"""``python -m bench``: run, sweep, table, plot, guard. docs/speed.md says how to read what comes out."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

# Before the libraries are imported: they talk while they load, and torch's profiler while it runs.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch

from bench import guard, records, report
from bench.contest import Timing, hold, names_of, own_failures
from bench.variants import MODES, VARIANTS, Settings
from bench.workloads import KINDS, PRESETS, Workload
from moelora.errors import ConfigError, MoeloraError
from moelora.files import atomic_write_json, atomic_write_text, read_json
from moelora.records.environment import commit, now
from moelora.records.speed import read_speed

OURS_SWEPT = ("base", "lora", "dense", "top-k", "mixlora")
SWEPT = (*OURS_SWEPT, "loramoe-moe-peft", "mola-moe-peft", "mixlora-moe-peft")
VALUES = {"tokens": (64, 128, 256, 512), "experts": (2, 4, 8, 16), "rank": (4, 8, 16, 32), "depth": (1, 2, 4, 8)}
GPU_VALUES = {"tokens": (2048, 4096, 8192), "depth": (1, 2, 4)}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="compare all variants")
    run.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    run.add_argument(
        "--dropout", nargs="+", type=float, default=[0.0, 0.05], help="rates, one training comparison each"
    )
    sweep = commands.add_parser("sweep", help="compare along an axis")
    sweep.add_argument("axis", choices=tuple(VALUES))
    sweep.add_argument("--values", nargs="+", type=int, help="places on the axis")
    sweep.add_argument("--dropout", type=float, default=0.0)
    for one in (run, sweep):
        one.add_argument("--preset", choices=tuple(PRESETS), default="cpu", help="shapes, dtype and device")
        one.add_argument("--workload", nargs="+", choices=KINDS, help="only these")
        one.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), help="only these, beside the reference")
        one.add_argument("--clock", choices=("cpu", "wall", "device"), help="cpu on a CPU, device on a GPU")
        one.add_argument("--rounds", type=int, default=9)
        one.add_argument("--warmup", type=int, default=1)
        one.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
        one.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="instead of the preset's")
        one.add_argument("--tokens", type=int, help="tokens of a sequence instead of the preset's")
        one.add_argument("--layers", type=int, help="decoder layers of the model instead of the preset's")
        for name in ("experts", "per_token", "rank"):
            default = getattr(Settings(), name)
            one.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
        one.add_argument("--adapters-in-base-dtype", action="store_true", help="else float32, PEFT's default")
        one.add_argument("--name", help="of the record")
        one.add_argument("--out", type=Path, default=records.LOCAL, help="folder of the record")
    for name, words in (("table", "print Markdown"), ("plot", "draw sweeps as SVG")):
        one = commands.add_parser(name, help=words)
        one.add_argument("records", nargs="*" if name == "table" else "+", type=Path, help="the newest by default")
        if name == "plot":
            one.add_argument("--out", type=Path, default=records.LOCAL, help="folder of the figures")
    check = commands.add_parser("guard", help="warn where ratios are not those expected; never fails")
    check.add_argument("record", nargs="?", type=Path, help="the newest by default")
    check.add_argument("--expected", type=Path, default=guard.EXPECTED)
    check.add_argument("--write", action="store_true", help="take the record's ratios as those expected")
    return parser


def prepare(options: argparse.Namespace) -> tuple[list[Workload], Settings, Timing]:
    """Return what the options ask for.

    Raises:
        ConfigError: There is no such device, clock or count.
    """
    workloads = [one for one in PRESETS[options.preset] if not options.workload or one.kind in options.workload]
    device = workloads[0].device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("the preset 'gpu' needs a CUDA device and torch sees none; use --preset cpu")
    clock = options.clock or ("device" if device == "cuda" else "cpu")
    if clock == "device" and device != "cuda":
        raise ConfigError("the clock 'device' is that of CUDA events; on a CPU use --clock cpu or wall")
    for name in ("rounds", "threads", "experts", "per_token", "rank"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected at least 1")
    torch.set_num_threads(options.threads)
    workloads = [
        dataclasses.replace(
            one,
            length=options.tokens or one.length,
            dtype=options.dtype or one.dtype,
            layers=(options.layers or one.layers) if one.kind == "model" else 1,
        )
        for one in workloads
    ]
    numbers = {name: getattr(options, name) for name in ("experts", "per_token", "rank")}
    settings = Settings(**numbers, adapters_in_float32=not options.adapters_in_base_dtype)
    return workloads, settings, Timing(options.rounds, options.warmup, clock)


def run(options: argparse.Namespace) -> list[str]:
    """Hold the comparisons of ``run``, write their record and return our own variants that failed."""
    workloads, settings, timing = prepare(options)
    plans = [
        (workload, dataclasses.replace(settings, dropout=rate), mode)
        for workload in workloads
        for mode in options.mode
        for rate in (options.dropout if mode == "training" else [0.0])
        if names_of(mode, workload, options.variants)
    ]
    return _hold_all(plans, timing, options, None, options.variants, f"{options.preset}-run")


def sweep(options: argparse.Namespace) -> list[str]:
    """Hold the comparisons of ``sweep``, write their record and return our own variants that failed."""
    workloads, settings, timing = prepare(options)
    kind = options.workload[0] if options.workload else ("model" if options.axis == "depth" else "block")
    workload = next(one for one in workloads if one.kind == kind)
    settings = dataclasses.replace(settings, dropout=options.dropout)
    defaults = GPU_VALUES.get(options.axis) if options.preset == "gpu" else None
    plans = []
    for value in options.values or defaults or VALUES[options.axis]:
        where, numbers = workload, settings
        if options.axis == "tokens":
            if value % workload.batch:
                raise ConfigError(f"{value} tokens do not divide into {workload.batch} sequences")
            where = dataclasses.replace(workload, length=value // workload.batch)
        elif options.axis == "depth":
            where = dataclasses.replace(workload, layers=value)
        else:
            numbers = dataclasses.replace(settings, **{options.axis: value})
        plans.append((where, numbers, "training"))
    name = f"{options.preset}-{options.axis}"
    return _hold_all(plans, timing, options, options.axis, options.variants or SWEPT, name)


def _hold_all(
    plans: list, timing: Timing, options: argparse.Namespace, axis: str | None, chosen, name: str
) -> list[str]:
    started, load = now(), records.load_average()
    commit()  # kept from here on: the checkout may change while this runs
    groups: list[dict] = []
    for number, (workload, settings, mode) in enumerate(plans, 1):
        title = f"{number}/{len(plans)} {workload.name} {mode}, dropout {settings.dropout:g}"

        def say(text: str, title: str = title) -> None:
            print(f"\r{title}: {text} of {timing.rounds + timing.warmup}", end="", file=sys.stderr, flush=True)

        groups.append(hold(workload, settings, mode, timing, chosen, report=say))
        print(file=sys.stderr)
        # After each comparison, so that one who stops it keeps what there is.
        record = records.make(options.name or name, groups, plans[0][0].device, started, load, axis)
        path = records.write(record, options.out)
    print(report.markdown(record))
    print(f"record: {path}")
    return sorted({name for group in groups for name in own_failures(group)})


def check(options: argparse.Namespace) -> list[str]:
    """Print what ``guard`` finds and return the warnings."""
    path = options.record or records.newest()
    record = read_speed(path)
    if options.write:
        before = read_json(options.expected, "expected ratios")["ratios"] if options.expected.exists() else {}
        atomic_write_json(options.expected, {"margin": guard.MARGIN, "ratios": before | guard.ratios_of(record)})
        print(f"{options.expected} now has the ratios of {path}")
        return []
    expected = read_json(options.expected, "expected ratios")
    warnings, compared = guard.compare(record, expected)
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"{compared} ratios of {path} compared, {len(warnings)} beyond {expected['margin']:.0%} of those expected")
    return warnings


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        if options.command in ("run", "sweep"):
            if failed := (run if options.command == "run" else sweep)(options):
                print(f"error: {', '.join(failed)} failed; the record has the reasons", file=sys.stderr)
                return 1
        elif options.command == "guard":
            check(options)
        elif options.command == "table":
            for path in options.records or [records.newest()]:
                print(report.markdown(read_speed(path)))
        else:
            from moelora.reporting.figures.speed import draw_sweep

            for path in options.records:
                record = read_speed(path)
                if record["axis"] is None:
                    raise ConfigError(f"{path} is no sweep, so it has no axis to draw; run `python -m bench sweep`")
                target = options.out / f"{record['name']}.svg"
                atomic_write_text(target, draw_sweep(record).svg)
                print(target)
    except MoeloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
