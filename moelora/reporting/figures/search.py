"""Figures of a search, drawn by Optuna's matplotlib backend from the file that the finished study left."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.category import StrCategoryFormatter
from matplotlib.ticker import MaxNLocator, NullFormatter

from moelora.reporting.figures.style import GRID, INK, MUTED, SETTINGS, Figure, to_svg

ENOUGH = 4
"""Completed trials below which importances would say nothing."""

AXES = {
    "score": "validation score",
    "trainable_parameters": "trainable parameters",
    "step_seconds": "step time in seconds",
}


def draw_search(document: Mapping[str, Any]) -> list[Figure]:
    """Return the figures of a finished study, in the order of the page.

    Args:
        document: as `moelora.search.choose.trials_document` returns it.
    """
    from optuna.visualization import matplotlib as plots

    place = document["objectives"].index("score")
    scores = rebuild(document, ["score"])
    floor, below = lowest_shown(document)
    far = f" Below what is shown: {below} of the trials." if below else ""
    done = sum(trial["state"] == "complete" for trial in document["trials"])
    varied = [name for name in sorted(_parameters(document)) if _is_varied(document, name)]
    figures = [
        _figure(
            "search--history", "Score by trial",
            f"Validation score of each trial, and the best so far.{far}",
            lambda: _history(plots, scores, floor), (8.6, 3.2),
        )
    ]  # fmt: skip
    if len(document["objectives"]) > 1:
        study = rebuild(document, document["objectives"])
        for index, name in enumerate(document["objectives"]):
            if index != place:
                figures.append(_pareto(plots, study, name, (index, place), floor, far))
    if done >= ENOUGH and varied:
        figures += [
            _figure(
                "search--importances", "Which parameters matter",
                "Share of what separates the trials of better score that each parameter explains (PED-ANOVA). With few "
                "trials this is a hint and no finding.",
                lambda: plots.plot_param_importances(scores, params=varied), (8.6, 0.35 * len(varied) + 1.0),
            ),
            _figure(
                "search--parallel", "Every trial across the parameters",
                "One line a trial, darker where the score is better; lines that end at None do not have the parameter.",
                lambda: _parallel(plots, scores, varied), (8.6, 4.2),
            ),
            _figure(
                "search--slice", "Score by each parameter",
                f"One point a trial; darker trials are later.{far}",
                lambda: _slices(plots, scores, varied, floor), (3.4, 3.2),
            ),
        ]  # fmt: skip
    return figures


def rebuild(document: Mapping[str, Any], objectives: list[str]) -> Any:
    """Return the study in memory, with some of its objectives.

    Args:
        document: as `moelora.search.choose.trials_document` returns it.
        objectives: which values to keep.
    """
    import optuna
    from optuna.distributions import json_to_distribution
    from optuna.trial import TrialState, create_trial

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    places = [document["objectives"].index(name) for name in objectives]
    study = optuna.create_study(directions=[document["directions"][place] for place in places])
    study.set_metric_names([AXES[name] for name in objectives])
    for trial in document["trials"]:
        complete = trial["state"] == "complete"
        study.add_trial(
            create_trial(
                # what has no values is failed here, so that the numbers stay
                state=TrialState.COMPLETE if complete else TrialState.FAIL,
                values=[trial["values"][place] for place in places] if complete else None,
                params=trial["params"],
                distributions={name: json_to_distribution(text) for name, text in trial["distributions"].items()},
            )
        )
    return study


def lowest_shown(document: Mapping[str, Any]) -> tuple[float | None, int]:
    """Return where the axis of scores begins, and how many trials lie below it.

    One trial that learned nothing would press all others together. The axis leaves out what lies further below the
    lower quartile than one and a half times the distance of the quartiles (Tukey's fence).

    Args:
        document: as `moelora.search.choose.trials_document` returns it.
    """
    place = document["objectives"].index("score")
    values = np.array([trial["values"][place] for trial in document["trials"] if trial["state"] == "complete"])
    if len(values) < ENOUGH:
        return None, 0
    low, high = np.percentile(values, [25, 75])
    shown = values[values >= low - 1.5 * (high - low)]
    below = len(values) - len(shown)
    return (float(shown.min() - 0.08 * (shown.max() - shown.min())), below) if below else (None, 0)


def _pareto(plots: Any, study: Any, name: str, places: tuple[int, int], floor: float | None, far: str) -> Figure:
    index, place = places

    def draw() -> Any:
        axes = plots.plot_pareto_front(
            study, targets=lambda trial: (trial.values[index], trial.values[place]),
            target_names=[AXES[name], AXES["score"]],
        )  # fmt: skip
        if name == "trainable_parameters":
            axes.set_xscale("log")
        axes.set_ylim(bottom=floor)
        return axes

    return _figure(
        f"search--pareto--{name.replace('_', '-')}", f"Validation score against {AXES[name]}",
        "One point a trial. Best trials are those that no other beats in all objectives at once, so in this view of "
        f"two of them some lie behind others.{far}",
        draw, (8.6, 3.6),
    )  # fmt: skip


def _history(plots: Any, study: Any, floor: float | None) -> Any:
    axes = plots.plot_optimization_history(study, target_name=AXES["score"])
    axes.legend(loc="best")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=floor)
    return axes


def _parallel(plots: Any, study: Any, varied: list[str]) -> Any:
    axes = plots.plot_parallel_coordinate(study, params=varied, target_name="score")
    for one in axes.figure.axes:
        one.grid(False)  # the lines of one parameter's scale would cross those of the trials
    return axes


def _slices(plots: Any, study: Any, varied: list[str], floor: float | None) -> Any:
    drawn = plots.plot_slice(study, params=varied, target_name="score")
    for axes in drawn.ravel() if hasattr(drawn, "ravel") else [drawn]:
        if isinstance(axes.xaxis.get_major_formatter(), StrCategoryFormatter):
            axes.tick_params(axis="x", rotation=60)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=floor)
    return drawn


def _parameters(document: Mapping[str, Any]) -> set[str]:
    return {name for trial in document["trials"] for name in trial["params"]}


def _is_varied(document: Mapping[str, Any], name: str) -> bool:
    """Return whether completed trials have more than one value of a parameter."""
    values = {
        repr(trial["params"][name])
        for trial in document["trials"]
        if trial["state"] == "complete" and name in trial["params"]
    }
    return len(values) > 1


def _figure(name: str, title: str, caption: str, draw: Callable[[], Any], size: tuple[float, float]) -> Figure:
    with _house_style(size):
        drawn = draw()
        axes = drawn.ravel()[0] if hasattr(drawn, "ravel") else drawn
        figure = axes.figure
        try:
            _restyle(figure)
            svg = to_svg(figure)
        finally:
            plt.close(figure)
    return Figure(name=name, family="search", title=title, caption=caption, svg=svg)


@contextmanager
def _house_style(size: tuple[float, float]) -> Iterator[None]:
    """Open matplotlib's settings; Optuna makes figures of their size and puts a style of its own over the rest."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        matplotlib.rcParams["figure.figsize"] = size
        matplotlib.rcParams["figure.constrained_layout.use"] = True
        yield


def _restyle(figure: Any) -> None:
    """Give a figure that Optuna drew the colours that the page can replace; its heading stands on the page."""
    figure.set_facecolor("none")
    figure.suptitle("")
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.set_title("")
        axes.tick_params(colors=MUTED, which="both", labelsize=8.5)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(MUTED)
            label.set_fontsize(9)
        for spine in axes.spines.values():
            spine.set_color(MUTED)
        for line in (*axes.get_xgridlines(), *axes.get_ygridlines()):
            line.set_color(GRID)
        legend = axes.get_legend()
        if legend is not None:
            legend.set_frame_on(False)
            for text in legend.get_texts():
                text.set_color(INK)
        for text in axes.texts:
            text.set_color(INK)
