"""The command line: one verb per arrow between two files.

Handlers import what they need when they are called, so that ``moelora --help`` answers at once.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from moelora import __version__


def main(arguments: "list[str] | None" = None) -> int:
    """Run one verb and return its exit code.

    An error that moelora raises on purpose becomes one line on stderr and exit code 2; set
    ``MOELORA_TRACEBACK=1`` to see where it came from.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    from moelora.errors import MoeloraError

    try:
        code = _load(options.handler)(options)
        sys.stdout.flush()
        return int(code or 0)
    except MoeloraError as error:
        if os.environ.get("MOELORA_TRACEBACK") == "1":
            raise
        print(f"moelora: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("moelora: interrupted; the same command resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (head, less) has left: not our error, and Python must not complain on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _load(handler: str):
    """Return the function named ``module:function``."""
    module, function = handler.split(":")
    return getattr(importlib.import_module(module), function)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="moelora",
        description="A reproducible benchmark for LoRA-type fine-tuning with mixtures of experts.",
        epilog="The workflow calls these verbs; a line copied from its log repeats one step. "
        "An argument @FILE is replaced by the lines of FILE.",
        fromfile_prefix_chars="@",
    )
    parser.add_argument("--version", action="version", version=f"moelora {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add in (
        _add_plan,
        _add_data,
        _add_base,
        _add_sensitivity,
        _add_allocate,
        _add_tune,
        _add_search,
        _add_train,
        _add_evaluate,
        _add_costs,
        _add_collect,
        _add_report,
        _add_compare,
        _add_claims,
        _add_export,
        _add_publish,
        _add_new_method,
        _add_docs,
    ):
        add(verbs)
    return parser


def _verb(verbs, name: str, handler: str, help_text: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=help_text, description=help_text, fromfile_prefix_chars="@")
    verb.set_defaults(handler=handler, verb=name)
    return verb


def _json_text_or_file(text: str) -> dict:
    """Return the mapping that an argument holds, as JSON text or as the path of a JSON file."""
    try:
        return json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise argparse.ArgumentTypeError(f"expected JSON text or a JSON file, found {text!r} ({error})") from error


def _numbers(text: str) -> list[int]:
    """Return the whole numbers of a list such as ``8,16,32``."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers joined by commas, found {text!r}") from error


def _add_sources(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--data", type=Path, metavar="DIR", help="built-in data, where a task uses it")
    verb.add_argument("--base", type=Path, metavar="DIR", help="base model built by `moelora base`, where one is used")


def _add_plan(verbs) -> None:
    verb = _verb(verbs, "plan", "moelora.plans.command:run", "expand a suite into its runs, and write their plans")
    verb.add_argument("suite", type=Path, metavar="SUITE.yaml")
    verb.add_argument("--config-dir", type=Path, default=Path("workflow/config"), metavar="DIR",
                      help="folder with models/, tasks/, methods/ (default: %(default)s)")  # fmt: skip
    verb.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                      help="plans are written to DIR/<suite>/ (default: %(default)s)")  # fmt: skip
    verb.add_argument("--write", action="store_true", help="write plans whose content differs")
    verb.add_argument("--json", action="store_true", help="print the plans as JSON lines instead of a table")


def _add_data(verbs) -> None:
    verb = _verb(verbs, "data", "moelora.tasks.builtin.command:run_data", "generate the data of the built-in suite")
    verb.add_argument("--suite-task-source", required=True, metavar="NAME", help="source of the tasks, e.g. tiny")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_base(verbs) -> None:
    verb = _verb(verbs, "base", "moelora.tasks.builtin.command:run_base", "build and pretrain a built-in base model")
    verb.add_argument("--model", type=Path, required=True, metavar="MODEL.yaml")
    verb.add_argument("--data", type=Path, required=True, metavar="DIR")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_sensitivity(verbs) -> None:
    verb = _verb(verbs, "sensitivity", "moelora.allocation.sensitivity_command:run",
                 "measure how sensitive each module is to tasks, from a small sample of each")  # fmt: skip
    verb.add_argument("--plan", type=Path, nargs="+", required=True, metavar="PLAN", help="one a task, or one for all")
    verb.add_argument("--task", nargs="+", required=True, metavar="NAME", help="tasks of their plans")
    verb.add_argument("--examples", type=int, default=64, metavar="N")
    verb.add_argument("--batch-size", type=int, default=8, metavar="B")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--score", default="sum", choices=["sum", "mean", "taylor", "fisher", "as_coded"],
                      help="what is added up: docs/allocation.md (default: %(default)s)")  # fmt: skip
    verb.add_argument("--checkpointing", action="store_true", help="recompute activations: less memory, more time")
    verb.add_argument("--stability", type=_numbers, metavar="8,16,…",
                      help="write how samples of these sizes agree instead of scores")  # fmt: skip
    verb.add_argument("--seeds", type=_numbers, default=[0, 1, 2], metavar="0,1,…",
                      help="of the samples that --stability compares (default: 0,1,2)")  # fmt: skip
    verb.add_argument("--votes", type=_json_text_or_file, default={}, metavar="JSON",
                      help="percentile and pool by which --stability chooses modules")  # fmt: skip
    verb.add_argument("--out", type=Path, nargs="+", required=True, metavar="FILE", help="one a task")
    _add_sources(verb)


def _add_allocate(verbs) -> None:
    verb = _verb(verbs, "allocate", "moelora.allocation.command:run", "turn sensitivities into experts per module")
    verb.add_argument("--sensitivity", type=Path, nargs="+", required=True, metavar="FILE", help="one a task")
    verb.add_argument("--settings", type=_json_text_or_file, default={}, metavar="JSON",
                      help="`allocation` as suites have it; the options below go before it")  # fmt: skip
    verb.add_argument("--strategy", metavar="NAME", help="how experts are placed (docs/allocation.md)")
    budget = verb.add_mutually_exclusive_group()
    budget.add_argument("--experts", type=int, metavar="N", help="spend this many experts")
    budget.add_argument("--parameters", type=int, metavar="N", help="spend this many trainable parameters")
    verb.add_argument("--percentile", type=float, metavar="P", help="of the votes (default: 40)")
    verb.add_argument("--pool", metavar="NAME", help="modules among which the percentile is taken (default: per_type)")
    verb.add_argument("--method", default="lora_smoe", metavar="NAME",
                      help="whose modules get experts, and which counts parameters (default: %(default)s)")  # fmt: skip
    verb.add_argument("--method-settings", type=_json_text_or_file, default={}, metavar="JSON",
                      help="settings of the method that differ from its defaults")  # fmt: skip
    verb.add_argument("--given", type=Path, metavar="FILE",
                      help="take the experts of LoRA-SMoE's file, module to count, as they are")  # fmt: skip
    verb.add_argument("--counts", type=Path, metavar="FILE",
                      help="write also LoRA-SMoE's file, module to count")  # fmt: skip
    verb.add_argument("--out", type=Path, required=True, metavar="FILE")


def _add_tune(verbs) -> None:
    verb = _verb(verbs, "tune", "moelora.training.tune:run",
                 "choose the learning rate of a variant on a split cut from train")  # fmt: skip
    verb.add_argument("--plan", type=Path, required=True, metavar="PLAN")
    verb.add_argument("--tune", type=_json_text_or_file, required=True, metavar="JSON",
                      help="learning_rates, epochs, max_examples, validation_fraction, seed")  # fmt: skip
    verb.add_argument("--out", type=Path, required=True, metavar="FILE")
    _add_sources(verb)


def _add_search(verbs) -> None:
    text = "search for a variant's best settings: trials of one study, any number of workers"
    verb = verbs.add_parser("search", help=text, description=text, fromfile_prefix_chars="@")
    steps = verb.add_subparsers(title="steps", metavar="STEP", required=True)
    where = "moelora.search.command:"

    create = _verb(steps, "create", f"{where}create", "make the study, unless it is there, and write study.json")
    create.add_argument("--search", type=Path, required=True, metavar="search.json", help="as `moelora plan` writes it")
    create.add_argument("--plan", type=Path, required=True, metavar="PLAN", help="of the winner's first run")
    create.add_argument("--sensitivity", type=Path, nargs="*", default=[], metavar="FILE", help="one a task")
    create.add_argument("--fingerprint", default="", help="of the code behind the trials")
    create.add_argument("--out", type=Path, required=True, metavar="study.json")
    _add_sources(create)

    run = _study_verb(
        steps, "run", f"{where}run", "carry out trials until every slot, or the one named, has its result"
    )
    run.add_argument("--slot", type=int, metavar="N", help="care for this one only, counted from 0")
    run.add_argument("--out", type=Path, metavar="FILE", help="with --slot: its result")
    _add_sources(run)

    ask = _study_verb(
        steps, "ask", f"{where}ask_by_hand", "print a new trial as JSON, to be carried out by other means"
    )
    ask.add_argument("--slot", type=int, metavar="N", help="the slot it is for (default: the first that is free)")

    tell = _study_verb(steps, "tell", f"{where}tell_by_hand", "settle a trial that `ask` printed")
    tell.add_argument("number", type=int, metavar="NUMBER")
    ending = tell.add_mutually_exclusive_group(required=True)
    ending.add_argument("--values", type=_json_text_or_file, metavar="JSON", help="objective to value")
    ending.add_argument("--failed", metavar="REASON", help="why there are none")

    _study_verb(steps, "sweep", f"{where}sweep_by_hand", "fail the trials whose workers died")
    _study_verb(steps, "show", f"{where}show", "print the trials, the best value and an estimate of the time left")

    choose = _study_verb(
        steps, "choose", f"{where}choose_winner", "write all trials, and the winner of a finished study"
    )
    choose.add_argument("--trials", type=Path, required=True, metavar="FILE")
    choose.add_argument("--winner", type=Path, required=True, metavar="FILE")
    choose.add_argument(
        "--allocation", type=Path, metavar="FILE", help="its experts per module, where they are allocated"
    )


def _study_verb(steps, name: str, handler: str, text: str) -> argparse.ArgumentParser:
    verb = _verb(steps, name, handler, text)
    verb.add_argument("--study", type=Path, required=True, metavar="study.json")
    return verb


def _add_train(verbs) -> None:
    verb = _verb(verbs, "train", "moelora.training.command:run", "carry out plans; resumes what was interrupted")
    verb.add_argument("--plans", type=Path, nargs="+", required=True, metavar="PLAN")
    verb.add_argument("--manifest", type=Path, metavar="FILE", help="written last: which records the job left")
    verb.add_argument("--evaluate", action="store_true", help="score in the same process")
    verb.add_argument("--adapter", type=Path, metavar="DIR",
                      help="start from this adapter of the same base model and method instead of from first values; "
                      "the run gets a folder of its own beside the plan's")  # fmt: skip
    verb.add_argument("--fingerprint", default="", help="of the code behind these runs, for the record")
    verb.add_argument("--log", type=Path, metavar="FILE")
    _add_sources(verb)


def _add_evaluate(verbs) -> None:
    verb = _verb(verbs, "evaluate", "moelora.evaluation.command:run", "score trained runs and write their records")
    verb.add_argument("--plans", type=Path, nargs="+", required=True, metavar="PLAN")
    verb.add_argument("--diagnostics", action="store_true",
                      help="record what routers and experts did, whatever the plans say")  # fmt: skip
    verb.add_argument("--adapter", type=Path, metavar="DIR",
                      help="score this adapter, trained elsewhere, on the tasks of the plans")  # fmt: skip
    verb.add_argument("--manifest", type=Path, metavar="FILE")
    verb.add_argument("--fingerprint", default="", help="of the code behind these runs, for the record")
    verb.add_argument("--log", type=Path, metavar="FILE")
    _add_sources(verb)


def _add_costs(verbs) -> None:
    verb = _verb(verbs, "costs", "moelora.costs:run", "time and weigh variants, interleaved in one process")
    verb.add_argument("--plans", type=Path, nargs="+", required=True, metavar="PLAN", help="one per variant")
    verb.add_argument("--rounds", type=int, default=12, metavar="N", help="measured rounds over all variants")
    verb.add_argument("--warmup", type=int, default=3, metavar="N", help="rounds before them that are not counted")
    verb.add_argument("--batch-size", type=int, default=16, metavar="B")
    verb.add_argument("--sequence-length", type=int, default=128, metavar="T", help="tokens per sequence")
    verb.add_argument("--out", type=Path, required=True, metavar="FILE")
    _add_sources(verb)


def _add_collect(verbs) -> None:
    verb = _verb(verbs, "collect", "moelora.reporting.collect:run", "gather the records of jobs into one table")
    verb.add_argument("--manifests", type=Path, nargs="+", required=True, metavar="FILE")
    verb.add_argument("--out", type=Path, required=True, metavar="records.parquet")


def _add_report(verbs) -> None:
    verb = _verb(verbs, "report", "moelora.reporting.command:run", "make tables, figures and the page from records")
    verb.add_argument("--records", type=Path, required=True, metavar="FILE")
    verb.add_argument("--costs", type=Path, nargs="*", default=[], metavar="FILE")
    verb.add_argument("--speed", type=Path, nargs="*", default=[], metavar="FILE", help="records of the bench to show")
    verb.add_argument("--stability", type=Path, nargs="*", default=[], metavar="FILE",
                      help="how samples agree, from `moelora sensitivity --stability`")  # fmt: skip
    verb.add_argument("--search", type=Path, nargs="?", metavar="FILE", help="trials of a finished search")
    verb.add_argument("--suite", type=Path, required=True, metavar="SUITE.json")
    verb.add_argument("--title", required=True)
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_compare(verbs) -> None:
    verb = _verb(verbs, "compare", "moelora.reporting.compare:run", "compare two variants of a suite's records")
    verb.add_argument("first", metavar="A", help="variant, as records name it")
    verb.add_argument("second", metavar="B")
    verb.add_argument("--records", type=Path, required=True, metavar="FILE")
    verb.add_argument("--model", metavar="NAME")
    verb.add_argument("--task", metavar="NAME")
    verb.add_argument("--regime", metavar="NAME")
    verb.add_argument("--region", type=float, default=1.0, metavar="POINTS",
                      help="differences up to this many points count as none (default: %(default)s)")  # fmt: skip


def _add_claims(verbs) -> None:
    verb = _verb(verbs, "claims", "moelora.reporting.claims_page:run", "set published claims beside what records say")
    verb.add_argument("--records", type=Path, nargs="*", default=[], metavar="FILE")
    verb.add_argument("--costs", type=Path, nargs="*", default=[], metavar="FILE")
    verb.add_argument("--config-dir", type=Path, default=Path("workflow/config"), metavar="DIR",
                      help="folder with claims/ (default: %(default)s)")  # fmt: skip
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_export(verbs) -> None:
    verb = _verb(verbs, "export", "moelora.reporting.export:run",
                 "write records in the layout of PEFT's method comparison results")  # fmt: skip
    verb.add_argument("--records", type=Path, required=True, metavar="FILE")
    verb.add_argument("--to", type=Path, required=True, metavar="DIR")


def _add_publish(verbs) -> None:
    verb = _verb(verbs, "publish", "moelora.reporting.publish:run", "promote records, and a report, to tracked folders")
    verb.add_argument("--records", type=Path, required=True, metavar="FILE")
    verb.add_argument("--to", type=Path, required=True, metavar="DIR")
    verb.add_argument("--report", type=Path, metavar="DIR", help="a finished report to publish beside the records")
    verb.add_argument("--readme", type=Path, metavar="FILE", help="put the report's headline between the marks of FILE")


def _add_new_method(verbs) -> None:
    verb = _verb(verbs, "new-method", "moelora.scaffold:run", "create the files of a new method from a template")
    verb.add_argument("name", help="lower case, as in my_method")
    verb.add_argument("--rule", action="store_true", help="also create a workflow rule of its own")
    verb.add_argument("--root", type=Path, default=Path("."), metavar="DIR", help="the repository (default: here)")


def _add_docs(verbs) -> None:
    verb = _verb(verbs, "docs", "moelora.docs:run", "write the page of every method, and the battery's matrix")
    verb.add_argument("--out", type=Path, default=Path("docs/methods"), metavar="DIR",
                      help="folder of the pages (default: %(default)s)")  # fmt: skip
    verb.add_argument("--config-dir", type=Path, default=Path("workflow/config"), metavar="DIR",
                      help="folder with methods/ (default: %(default)s)")  # fmt: skip
