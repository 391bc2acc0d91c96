"""Shares of one measure as bars: a run's against its baselines, or the methods of several runs, the best first."""

from typing import Any

from matplotlib.figure import Figure
import numpy as np

from ssl_jax.report import draw, page
from ssl_jax.report.curves import mean
from ssl_jax.report.draw import COLOURS
from ssl_jax.report.page import Absent
from ssl_jax.report.runs import Files, groups
from ssl_jax.report.tables import group_of
from ssl_jax.workdir import words
from ssl_jax.workdir.results import Result, numbers

# Groups that have charts of their own, or whose numbers are no result.
_ELSEWHERE = ("health", "seconds", "few_label", "label_curve", "fine_tune")
_QUOTED = ("knn", "linear", "linear_lbfgs")  # three numbers of one run stand at the top of its page
_BASELINES = ("untrained", "supervised", "pixels")
_GREYS = {"untrained": "#8a8a8a", "supervised": "#6d7a8c", "pixels": "#b9b9b9"}
_WIDTH, _MARGIN, _BAR = 5.6, 0.9, 0.24  # inches: of a chart, of its axis and names, of a bar


def headlines(runs: list[Files]) -> list[str]:
    """The measure of each evaluation that is told first, of those that are shares and better when higher."""
    found: dict[str, str] = {}
    for run in runs:
        for r in numbers(run.results):
            if r.of == "pretrained" and _is_shown(r):
                found.setdefault(group_of(r), r.measure)
    return list(found.values())


def others(runs: list[Files]) -> str:
    """A chart of each evaluation that has none elsewhere.

    Raises:
      Absent: if there is none.
    """
    several = len(groups(runs)) > 1
    shown = [m for m in headlines(runs) if several or m.partition("/")[0] not in _QUOTED]
    if not shown:
        raise Absent("No other evaluation was made.")
    return page.pairs([_of_methods(runs, m) if several else _of_one(runs, m.partition("/")[0]) for m in shown])


def _is_shown(r: Result) -> bool:
    higher = words.of(r.measure).better == words.UP and "held_out" not in r.measure
    return r.kind == "share" and not r.detail and higher and group_of(r) not in _ELSEWHERE


def _found(runs: list[Files]) -> dict[tuple[str, str], list[Result]]:
    """The results of runs that differ in the seed alone, by measure and representation."""
    found: dict[tuple[str, str], list[Result]] = {}
    for run in runs:
        for r in filter(_is_shown, numbers(run.results)):
            found.setdefault((r.measure, r.of), []).append(r)
    return found


def _of_one(runs: list[Files], group: str) -> str:
    """All measures of one evaluation, each of the pretrained backbone and of its baselines."""
    found = {key: results for key, results in _found(runs).items() if group_of(results[0]) == group}
    measures = list(dict.fromkeys(measure for measure, _ in found))
    kinds = [of for of in ("pretrained", *_BASELINES) if any((m, of) in found for m in measures)]
    height = _MARGIN + _BAR * len(measures) * (len(kinds) + 0.6)
    figure, axes = draw.axes("%", "", (_WIDTH, height))
    for row, of in enumerate(kinds):
        places = [i for i, m in enumerate(measures) if (m, of) in found]
        values, spreads = zip(*(mean(found[measures[i], of]) for i in places), strict=True)
        step = 1 / (len(kinds) + 0.6)
        _bars(axes, np.array(places) + row * step, values, spreads, step, _GREYS.get(of, COLOURS[0]), of)
    axes.set_yticks(np.arange(len(measures)) + (len(kinds) - 1) / 2 / (len(kinds) + 0.6))
    axes.set_yticklabels([words.of(m).name for m in measures])
    return _finished(figure, axes, words.group(group), "")


def _of_methods(runs: list[Files], measure: str) -> str:
    """One measure of all methods, sorted, below the baselines of the first."""
    rows, first = [], _found(groups(runs)[0].runs)
    for number, group in enumerate(groups(runs)):
        if results := _found(group.runs).get((measure, "pretrained")):
            rows.append((*mean(results), group.name, draw.look(number).colour))
    rows.sort(reverse=True)
    for of in _BASELINES:
        if (measure, of) in first:
            rows.append((*mean(first[measure, of]), of, _GREYS[of]))
    figure, axes = draw.axes("%", "", (_WIDTH, _MARGIN + 1.3 * _BAR * len(rows)))
    for place, (value, spread, _, colour) in enumerate(rows):
        _bars(axes, np.array([place]), [value], [spread], 0.75, colour)
    axes.set_yticks(range(len(rows)), [name for _, _, name, _ in rows])
    told = words.of(measure)
    title = words.group(measure.partition("/")[0])
    title += "" if told.name in ("", "accuracy") else f": {told.name}"
    return _finished(figure, axes, title, told.definition)


def _bars(axes: Any, places: np.ndarray, values: Any, spreads: Any, height: float, colour: str, name: str = "") -> None:
    """Bars with their numbers at the end."""
    shown = [spread or np.nan for spread in spreads]  # a spread of nothing is no line
    axes.barh(places, values, 0.9 * height, color=colour, label=name or None)
    axes.errorbar(values, places, xerr=shown, fmt="none", ecolor=draw.INK, elinewidth=0.8, capsize=2)
    for place, value, spread in zip(places, values, spreads, strict=True):
        axes.annotate(
            f"{value:.1f}",
            (value + (spread or 0), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=draw.INK,
        )


def _finished(figure: Figure, axes: Any, title: str, hint: str) -> str:
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    draw.legend(axes)
    return draw.chart(figure, title, hint=hint)
