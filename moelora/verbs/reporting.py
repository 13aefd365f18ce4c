"""From records to tables, pages and other files, and what keeps the project's own pages."""

from pathlib import Path

from moelora.verbs.options import add_verb, positive


def _add_collect(verbs) -> None:
    verb = add_verb(verbs, "collect", "moelora.reporting.collect:run", "gather the records of jobs into one table")
    verb.add_argument("--manifests", type=Path, nargs="+", required=True, metavar="FILE")
    verb.add_argument("--out", type=Path, required=True, metavar="records.parquet")


def _add_report(verbs) -> None:
    verb = add_verb(verbs, "report", "moelora.reporting.command:run", "make tables, figures and the page from records")
    verb.add_argument("--records", type=Path, required=True, metavar="FILE")
    verb.add_argument("--costs", type=Path, nargs="*", default=[], metavar="FILE")
    verb.add_argument("--speed", type=Path, nargs="*", default=[], metavar="FILE", help="records of the bench to show")
    verb.add_argument("--stability", type=Path, nargs="*", default=[], metavar="FILE",
                      help="how samples agree, from `moelora sensitivity --stability`")  # fmt: skip
    verb.add_argument("--search", type=Path, nargs="?", metavar="FILE", help="trials of a finished search")
    verb.add_argument("--claims", type=Path, nargs="?", metavar="FILE", help="claims.json of `moelora claims`")
    verb.add_argument("--suite", type=Path, required=True, metavar="SUITE.json")
    verb.add_argument("--title", required=True)
    verb.add_argument("--workers", type=positive, default=1, metavar="N", help="processes that draw figures")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_compare(verbs) -> None:
    verb = add_verb(verbs, "compare", "moelora.reporting.compare:run", "compare two variants of a suite's records")
    verb.add_argument("first", metavar="A", help="variant, as records name it")
    verb.add_argument("second", metavar="B")
    verb.add_argument("--records", type=Path, required=True, metavar="FILE")
    verb.add_argument("--model", metavar="NAME")
    verb.add_argument("--task", metavar="NAME")
    verb.add_argument("--regime", metavar="NAME")
    verb.add_argument("--region", type=float, default=1.0, metavar="POINTS",
                      help="differences up to this many points count as none (default: %(default)s)")  # fmt: skip


def _add_claims(verbs) -> None:
    verb = add_verb(
        verbs, "claims", "moelora.reporting.claims_page:run", "set published claims beside what records say"
    )
    verb.add_argument("--records", type=Path, nargs="*", default=[], metavar="FILE")
    verb.add_argument("--costs", type=Path, nargs="*", default=[], metavar="FILE")
    verb.add_argument("--config-dir", type=Path, default=Path("workflow/config"), metavar="DIR",
                      help="folder with claims/ (default: %(default)s)")  # fmt: skip
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_export(verbs) -> None:
    verb = add_verb(verbs, "export", "moelora.reporting.export:run",
                 "write records in the layout of PEFT's method comparison results")  # fmt: skip
    verb.add_argument("--records", type=Path, required=True, metavar="FILE")
    verb.add_argument("--to", type=Path, required=True, metavar="DIR")


def _add_publish(verbs) -> None:
    verb = add_verb(
        verbs, "publish", "moelora.reporting.publish:run", "promote records, and a report, to tracked folders"
    )
    verb.add_argument("--records", type=Path, required=True, metavar="FILE")
    verb.add_argument("--to", type=Path, required=True, metavar="DIR")
    verb.add_argument("--report", type=Path, metavar="DIR", help="a finished report to publish beside the records")
    verb.add_argument("--readme", type=Path, metavar="FILE", help="put the report's headline between the marks of FILE")


def _add_new_method(verbs) -> None:
    verb = add_verb(verbs, "new-method", "moelora.scaffold:run", "create the files of a new method from a template")
    verb.add_argument("name", help="lower case, as in my_method")
    verb.add_argument("--rule", action="store_true", help="also create a workflow rule of its own")
    verb.add_argument("--root", type=Path, default=Path("."), metavar="DIR", help="the repository (default: here)")


def _add_docs(verbs) -> None:
    verb = add_verb(verbs, "docs", "moelora.docs:run", "write the page of every method, and the battery's matrix")
    verb.add_argument("--out", type=Path, default=Path("docs/methods"), metavar="DIR",
                      help="folder of the pages (default: %(default)s)")  # fmt: skip
    verb.add_argument("--config-dir", type=Path, default=Path("workflow/config"), metavar="DIR",
                      help="folder with methods/ (default: %(default)s)")  # fmt: skip


VERBS = (_add_collect, _add_report, _add_compare, _add_claims, _add_export, _add_publish, _add_new_method, _add_docs)
