"""What a suite needs before it trains: plans, data, base models, allocations, learning rates, searches."""

import argparse
from pathlib import Path

from moelora.verbs.options import add_sources, add_verb, json_text_or_file, numbers


def _add_plan(verbs) -> None:
    verb = add_verb(verbs, "plan", "moelora.plans.command:run", "expand a suite into its runs, and write their plans")
    verb.add_argument("suite", type=Path, metavar="SUITE.yaml")
    verb.add_argument("--config-dir", type=Path, default=Path("workflow/config"), metavar="DIR",
                      help="folder with models/, tasks/, methods/ (default: %(default)s)")  # fmt: skip
    verb.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                      help="plans are written to DIR/<suite>/ (default: %(default)s)")  # fmt: skip
    verb.add_argument("--write", action="store_true", help="write plans whose content differs")
    verb.add_argument("--json", action="store_true", help="print the plans as JSON lines instead of a table")


def _add_preflight(verbs) -> None:
    verb = add_verb(verbs, "preflight", "moelora.preflight.command:run",
                 "say what a suite takes in time, memory and disk, and refuse what cannot work")  # fmt: skip
    verb.add_argument("suite", type=Path, metavar="SUITE.yaml", help="a suite, or the suite.json of a written one")
    verb.add_argument("--config-dir", type=Path, default=Path("workflow/config"), metavar="DIR",
                      help="folder with models/, tasks/, methods/ (default: %(default)s)")  # fmt: skip
    verb.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                      help="where cost records of earlier runs lie (default: %(default)s)")  # fmt: skip
    verb.add_argument("--device", metavar="NAME", help="card by name, as in a100-80 (docs/preflight.md)")
    verb.add_argument("--device-memory-gib", type=float, metavar="GIB", help="memory of another card")
    verb.add_argument("--teraflops", type=float, metavar="N", help="its bfloat16 peak without sparsity")
    verb.add_argument("--devices", type=int, metavar="N", help="how many such cards (default: 1)")
    verb.add_argument("--json", action="store_true", help="print plain data instead of text")
    verb.add_argument("--out", type=Path, metavar="FILE", help="write the estimate of a suite that can work")


def _add_data(verbs) -> None:
    verb = add_verb(verbs, "data", "moelora.tasks.builtin.command:run_data", "generate the data of the built-in suite")
    verb.add_argument("--suite-task-source", required=True, metavar="NAME", help="source of the tasks, e.g. tiny")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_base(verbs) -> None:
    verb = add_verb(verbs, "base", "moelora.tasks.builtin.command:run_base", "build and pretrain a built-in base model")
    verb.add_argument("--model", type=Path, required=True, metavar="MODEL.yaml")
    verb.add_argument("--data", type=Path, required=True, metavar="DIR")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_sensitivity(verbs) -> None:
    verb = add_verb(verbs, "sensitivity", "moelora.allocation.sensitivity_command:run",
                 "measure how sensitive each module is to tasks, from a small sample of each")  # fmt: skip
    verb.add_argument("--plan", type=Path, nargs="+", required=True, metavar="PLAN", help="one a task, or one for all")
    verb.add_argument("--task", nargs="+", required=True, metavar="NAME", help="tasks of their plans")
    verb.add_argument("--examples", type=int, default=64, metavar="N")
    verb.add_argument("--batch-size", type=int, default=8, metavar="B")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--score", default="sum", choices=["sum", "mean", "taylor", "fisher", "as_coded"],
                      help="what is added up: docs/allocation.md (default: %(default)s)")  # fmt: skip
    verb.add_argument("--checkpointing", action="store_true", help="recompute activations: less memory, more time")
    verb.add_argument("--stability", type=numbers, metavar="8,16,…",
                      help="write how samples of these sizes agree instead of scores")  # fmt: skip
    verb.add_argument("--seeds", type=numbers, default=[0, 1, 2], metavar="0,1,…",
                      help="of the samples that --stability compares (default: 0,1,2)")  # fmt: skip
    verb.add_argument("--votes", type=json_text_or_file, default={}, metavar="JSON",
                      help="percentile and pool by which --stability chooses modules")  # fmt: skip
    verb.add_argument("--out", type=Path, nargs="+", required=True, metavar="FILE", help="one a task")
    add_sources(verb)


def _add_allocate(verbs) -> None:
    verb = add_verb(verbs, "allocate", "moelora.allocation.command:run", "turn sensitivities into experts per module")
    verb.add_argument("--sensitivity", type=Path, nargs="+", required=True, metavar="FILE", help="one a task")
    verb.add_argument("--settings", type=json_text_or_file, default={}, metavar="JSON",
                      help="`allocation` as suites have it; the options below go before it")  # fmt: skip
    verb.add_argument("--strategy", metavar="NAME", help="how experts are placed (docs/allocation.md)")
    budget = verb.add_mutually_exclusive_group()
    budget.add_argument("--experts", type=int, metavar="N", help="spend this many experts")
    budget.add_argument("--parameters", type=int, metavar="N", help="spend this many trainable parameters")
    verb.add_argument("--percentile", type=float, metavar="P", help="of the votes (default: 40)")
    verb.add_argument("--pool", metavar="NAME", help="modules among which the percentile is taken (default: per_type)")
    verb.add_argument("--method", default="lora_smoe", metavar="NAME",
                      help="whose modules get experts, and which counts parameters (default: %(default)s)")  # fmt: skip
    verb.add_argument("--method-settings", type=json_text_or_file, default={}, metavar="JSON",
                      help="settings of the method that differ from its defaults")  # fmt: skip
    verb.add_argument("--given", type=Path, metavar="FILE",
                      help="take the experts of LoRA-SMoE's file, module to count, as they are")  # fmt: skip
    verb.add_argument("--counts", type=Path, metavar="FILE",
                      help="write also LoRA-SMoE's file, module to count")  # fmt: skip
    verb.add_argument("--out", type=Path, required=True, metavar="FILE")


def _add_tune(verbs) -> None:
    verb = add_verb(verbs, "tune", "moelora.training.tune:run",
                 "choose the learning rate of a variant on a split cut from train")  # fmt: skip
    verb.add_argument("--plan", type=Path, required=True, metavar="PLAN")
    verb.add_argument("--tune", type=json_text_or_file, required=True, metavar="JSON",
                      help="learning_rates, epochs, max_examples, validation_fraction, seed")  # fmt: skip
    verb.add_argument("--out", type=Path, required=True, metavar="FILE")
    add_sources(verb)


def _add_search(verbs) -> None:
    text = "search for a variant's best settings: trials of one study, any number of workers"
    verb = verbs.add_parser("search", help=text, description=text, fromfile_prefix_chars="@")
    steps = verb.add_subparsers(title="steps", metavar="STEP", required=True)
    where = "moelora.search.command:"

    create = add_verb(steps, "create", f"{where}create", "make the study, unless it is there, and write study.json")
    create.add_argument("--search", type=Path, required=True, metavar="search.json", help="as `moelora plan` writes it")
    create.add_argument("--plan", type=Path, required=True, metavar="PLAN", help="of the winner's first run")
    create.add_argument("--sensitivity", type=Path, nargs="*", default=[], metavar="FILE", help="one a task")
    create.add_argument("--fingerprint", default="", help="of the code behind the trials")
    create.add_argument("--out", type=Path, required=True, metavar="study.json")
    add_sources(create)

    run = _study_verb(
        steps, "run", f"{where}run", "carry out trials until every slot, or the one named, has its result"
    )
    run.add_argument("--slot", type=int, metavar="N", help="care for this one only, counted from 0")
    run.add_argument("--out", type=Path, metavar="FILE", help="with --slot: its result")
    add_sources(run)

    ask = _study_verb(
        steps, "ask", f"{where}ask_by_hand", "print a new trial as JSON, to be carried out by other means"
    )
    ask.add_argument("--slot", type=int, metavar="N", help="the slot it is for (default: the first that is free)")

    tell = _study_verb(steps, "tell", f"{where}tell_by_hand", "settle a trial that `ask` printed")
    tell.add_argument("number", type=int, metavar="NUMBER")
    ending = tell.add_mutually_exclusive_group(required=True)
    ending.add_argument("--values", type=json_text_or_file, metavar="JSON", help="objective to value")
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
    verb = add_verb(steps, name, handler, text)
    verb.add_argument("--study", type=Path, required=True, metavar="study.json")
    return verb


VERBS = (_add_plan, _add_preflight, _add_data, _add_base, _add_sensitivity, _add_allocate, _add_tune, _add_search)
