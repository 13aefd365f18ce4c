"""Carrying out plans: training, scoring, costs."""

from pathlib import Path

from moelora.verbs.options import add_sources, add_verb


def _add_train(verbs) -> None:
    verb = add_verb(verbs, "train", "moelora.training.command:run", "carry out plans; resumes what was interrupted")
    verb.add_argument("--plans", type=Path, nargs="+", required=True, metavar="PLAN")
    verb.add_argument("--manifest", type=Path, metavar="FILE", help="written last: which records the job left")
    verb.add_argument("--evaluate", action="store_true", help="score in the same process")
    verb.add_argument("--adapter", type=Path, metavar="DIR",
                      help="start from this adapter of the same base model and method instead of from first values; "
                      "the run gets a folder of its own beside the plan's")  # fmt: skip
    verb.add_argument("--fingerprint", default="", help="of the code behind these runs, for the record")
    verb.add_argument("--log", type=Path, metavar="FILE")
    add_sources(verb)


def _add_evaluate(verbs) -> None:
    verb = add_verb(verbs, "evaluate", "moelora.evaluation.command:run", "score trained runs and write their records")
    verb.add_argument("--plans", type=Path, nargs="+", required=True, metavar="PLAN")
    verb.add_argument("--diagnostics", action="store_true",
                      help="record what routers and experts did, whatever the plans say")  # fmt: skip
    verb.add_argument("--adapter", type=Path, metavar="DIR",
                      help="score this adapter, trained elsewhere, on the tasks of the plans")  # fmt: skip
    verb.add_argument("--manifest", type=Path, metavar="FILE")
    verb.add_argument("--fingerprint", default="", help="of the code behind these runs, for the record")
    verb.add_argument("--log", type=Path, metavar="FILE")
    add_sources(verb)


def _add_costs(verbs) -> None:
    verb = add_verb(verbs, "costs", "moelora.costs:run", "time and weigh variants, interleaved in one process")
    verb.add_argument("--plans", type=Path, nargs="+", required=True, metavar="PLAN", help="one per variant")
    verb.add_argument("--rounds", type=int, default=12, metavar="N", help="measured rounds over all variants")
    verb.add_argument("--warmup", type=int, default=3, metavar="N", help="rounds before them that are not counted")
    verb.add_argument("--batch-size", type=int, default=16, metavar="B")
    verb.add_argument("--sequence-length", type=int, default=128, metavar="T", help="tokens per sequence")
    verb.add_argument("--out", type=Path, required=True, metavar="FILE")
    add_sources(verb)


VERBS = (_add_train, _add_evaluate, _add_costs)
