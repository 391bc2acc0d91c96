"""Numbers over time and over labels as charts: of all given runs together, one colour a run."""

from collections.abc import Sequence
import re
from typing import Any

from matplotlib.ticker import MaxNLocator
import numpy as np

from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.report import draw, page
from ssl_jax.report.draw import COLOURS
from ssl_jax.report.page import Absent, Empty
from ssl_jax.report.runs import Files, groups
from ssl_jax.report.tables import group_of, row_of
from ssl_jax.workdir import words
from ssl_jax.workdir.results import Result, numbers

_POINTS = 200  # of a line at most; a page is no place for every update of a long run
# Inches: of one chart in a row of three, of one in a row of two that names many lines, and of one that fills the page.
_USUAL, _TALL, _WIDE = (4.4, 2.9), (5.6, 3.8), (10.0, 4.2)
_MAIN = ("knn/top1", "feature_std", "loss")
_KINDS = {"loss": "Losses", "accuracy": "Accuracy", "health": "Health of the features", "other": "Further measures"}
_TITLES = {
    "knn/top1": "kNN accuracy of the frozen features ↑",
    "feature_std": "Spread of the features ↑",
    "loss": "Loss ↓",
    "images_per_second": "Throughput, images per second ↑",
}
_IF_ANY = ("health/dead_units",)  # drawn where it is not zero all the time
_HEALTH = ("feature_std", "rankme", "alignment", "uniformity")
# Drawn dashed beside what they are compared with, by the end of their names; earlier versions wrote `_baseline`.
_COMPANIONS = {"/chance": "chance", "_baseline": "chance", "_healthy": "healthy"}
_LABELS_AXIS = {
    "few_label": "labelled images per class",
    "label_curve": "labels, % of the training set",
    "fine_tune": "labels, % of the training set",
}


def kind(name: str) -> str:
    """The section in which a logged number is drawn: loss, accuracy, health, throughput or other."""
    last = name.split("/")[-1]
    if "loss" in last:
        return "loss"
    if re.search(r"top\d|accuracy", last):
        return "accuracy"
    if name.startswith("health/") or last.startswith(_HEALTH):
        return "health"
    return "throughput" if name == "images_per_second" else "other"


def training(runs: list[Files], chance: float | None = None) -> str:
    """The charts that tell most: loss, kNN accuracy and spread of the features over the epochs.

    Args:
      runs: whose numbers.
      chance: the loss of an answer by chance, of a single run.

    Raises:
      Empty: if nothing was logged yet.
    """
    names = [name for name in _MAIN if any(name in run.logged for run in runs)]
    if not names:
        raise Empty("Nothing has been logged yet: the run has just begun.")
    return over_time(runs, names, chance)


def further(runs: list[Files]) -> str:
    """Charts of all other numbers over time.

    Raises:
      Absent: if there are none.
    """
    parts = []
    for wanted, title in _KINDS.items():
        logged = {n for run in runs for e in run.entries for n in e} - {"step", "epoch", *_MAIN}
        names = [n for n in sorted(logged) if kind(n) == wanted and not n.endswith(tuple(_COMPANIONS))]
        names = [n for n in names if n not in _IF_ANY or any(any(run.series(n)[1]) for run in runs)]
        if names:
            parts.append(f"<h3>{title}</h3>{over_time(runs, names)}")
    if not parts:
        raise Absent("Nothing else was logged.")
    return "".join(parts)


def over_time(runs: list[Files], names: Sequence[str], chance: float | None = None) -> str:
    """A chart of each logged number; losses of several methods, which have only their name in common, apart."""
    methods, charts, apart, looks = {run.config.method.name for run in runs}, [], [], _looks(runs)
    for name in names:
        if kind(name) == "loss" and len(methods) > 1:
            those = [g for g in groups(runs) if any(name in run.logged for run in g.runs)]
            apart += [_chart(g.runs, name, looks, of=g.name) for g in those]
        else:
            own = [run for run in runs if name in run.logged]
            several = len(groups(own)) > 1
            size = _WIDE if len(names) == 1 else _TALL if several else _USUAL
            charts.append(_chart(own, name, looks, chance if name == "loss" else None, size=size))
    return (page.charts(charts) if charts else "") + (page.charts(apart) if apart else "")


def _chart(
    runs: list[Files],
    name: str,
    looks: dict[int, draw.Look],
    chance: float | None = None,
    of: str = "",
    size: tuple[float, float] = _USUAL,
) -> str:
    share = kind(name) == "accuracy"
    figure, axes = draw.axes("epoch", "%" if share else "", size)
    scale, told, ends = 100 if share else 1, {}, {}
    named = {id(run): group.name for group in groups(runs) for run in group.runs}
    for run in runs:
        for companion, title in {"": "", **_COMPANIONS}.items():
            x, y = run.series(name + companion)
            if not x:
                continue
            keep = evenly_spaced(np.arange(len(x)), _POINTS)
            look = looks[id(run)]
            style = {"linestyle": ":", "alpha": 0.7} if companion else {"linestyle": look.line, "linewidth": 1.8}
            (line,) = axes.plot(np.array(x)[keep], scale * np.array(y)[keep], color=look.colour, **style)
            label = f"{run.name}, {title}" if title else run.name
            told[label] = line
            if title and run is runs[0]:
                line.set_label(title)
            if not companion:
                ends[named[id(run)]] = (x[-1], scale * y[-1], named[id(run)], look.colour)
    if chance is not None:
        axes.axhline(chance, color=COLOURS[-1], linestyle=":", label="chance")
    if axes.get_xlim()[1] > 2:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw.legend(axes)
    if len(ends) > 1:
        draw.name_ends(axes, list(ends.values()))
    measure = words.of(name)
    title = _TITLES.get(name, measure.title)
    return draw.chart(figure, f"{title}: {of}" if of else title, told, measure.definition)


def _looks(runs: list[Files]) -> dict[int, draw.Look]:
    """How the line of each run is drawn: one look a group of seeds."""
    return {id(run): draw.look(i) for i, group in enumerate(groups(runs)) for run in group.runs}


def over_labels(runs: list[Files], chance: float | None = None) -> str:
    """Charts of accuracy against the number of labels, from all results that have such counts.

    Args:
      runs: whose results.
      chance: the accuracy of an answer by chance, in %.

    Raises:
      Empty: if there are none yet.
      Absent: if other evaluations were made.
    """
    found = {group_of(r) for run in runs for r in numbers(run.results)}
    if found - {"health", "seconds"} and not found & _LABELS_AXIS.keys():
        raise Absent("Few labels were not asked for.")
    first, *others = [g for g in _LABELS_AXIS if g in found and _label_lines(runs, g)] or [""]
    if not first:
        raise Empty("No accuracy with few labels was measured: run ssl_jax evaluate on the same workdir.")
    charts = page.charts([_labels_chart(runs, first, chance, _WIDE)])
    size = _WIDE if len(others) == 1 else _TALL
    return charts + (page.charts([_labels_chart(runs, g, chance, size) for g in others]) if others else "")


def _labels_chart(runs: list[Files], group: str, chance: float | None, size: tuple[float, float]) -> str:
    lines = _label_lines(runs, group)
    counts = sorted({count for _, _, points in lines for count in points}, key=_count)
    lowest = min(y for _, _, points in lines for y, _ in points.values())
    near = chance is not None and lowest - chance < 30  # else it would press all lines together
    y_axis = "test accuracy, %" + ("" if near or chance is None else f" (chance: {chance:.3g})")
    figure, axes = draw.axes(_LABELS_AXIS[group], y_axis, size)
    ends, told = [], {}
    for name, style, points in lines:
        x = [counts.index(c) for c in sorted(points, key=_count)]
        y, spread = zip(*(points[counts[i]] for i in x), strict=True)
        told[name] = axes.errorbar(x, y, spread, markersize=4, capsize=3, elinewidth=0.8, marker="o", **style)[0]
        ends.append((x[-1], y[-1], name, style["color"]))
    if near:
        axes.axhline(chance, color=COLOURS[-1], linestyle=(0, (1, 3)), linewidth=1)
        ends.append((len(counts) - 1, chance, "chance", COLOURS[-1]))
    axes.set_xticks(range(len(counts)), counts)
    axes.set_xlim(-0.2, len(counts) - 0.8)
    draw.name_ends(axes, ends)
    return draw.chart(figure, words.group(group), told)


def _label_lines(runs: list[Files], group: str) -> list[tuple[str, dict[str, Any], dict[str, tuple[float, float]]]]:
    """Name, look, and accuracy and spread in % by number of labels: of what is pretrained, and once the baselines."""
    several, lines = len(groups(runs)) > 1, []
    for number, members in enumerate(groups(runs)):
        found: dict[str, dict[str, list[Result]]] = {}
        for run in members.runs:
            for r in numbers(run.results):
                if group_of(r) == group and re.fullmatch(r"[\d.]+|all", _labels(r)):
                    found.setdefault(r.of, {}).setdefault(_labels(r), []).append(r)
        for of, points in found.items():
            main = of == "pretrained"
            if not main and number:
                continue
            style = (draw.look(number) if main else draw.baseline(of)).style
            name = members.name if main and several else of
            lines.append((name, style, {count: mean(results) for count, results in points.items()}))
    if group == "few_label":
        lines += _semi_supervised(runs)
    same = {name: points for name, _, points in lines}
    return [line for line in lines if line[0] != "pca" or not _alike(line[2], same.get("pixels", {}))]


def _semi_supervised(runs: list[Files]) -> list[tuple[str, dict[str, Any], dict[str, tuple[float, float]]]]:
    """Lines of methods that learn with labels for some images of each class: their classifier by that number."""
    found: dict[str, dict[str, list[Result]]] = {}
    for run in runs:
        count = run.config.method.get("labels_per_class")
        for r in numbers(run.results) if count else ():
            if (r.measure, r.of) == ("classifier/top1", "pretrained"):
                supervised = run.config.method.get("weight") == 0
                name = "supervised, few labels" if supervised else f"{run.config.method.name}, classifier"
                found.setdefault(name, {}).setdefault(str(count), []).append(r)
    first = len(groups(runs))
    return [
        (
            name,
            draw.look(first + i).style,
            {count: mean(results) for count, results in points.items()},
        )
        for i, (name, points) in enumerate(found.items())
    ]


def mean(results: list[Result]) -> tuple[float, float]:
    """Mean in %, and its spread: over seeds where there are several, else over draws."""
    values = [100 * r.value for r in results]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 100 * (results[0].spread or 0)


def _alike(one: dict[str, tuple[float, float]], other: dict[str, tuple[float, float]]) -> bool:
    """Whether two lines are nowhere a point apart, so that one would hide the other."""
    return one.keys() == other.keys() and all(abs(one[c][0] - other[c][0]) < 1.1 for c in one)


def _labels(result: Result) -> str:
    """The number or share of labels that a result is of."""
    return row_of(result).split("/")[0]


def _count(text: str) -> float:
    return float("inf") if text == "all" else float(text)


def pace(runs: list[Files]) -> str:
    """Wall-clock time and throughput of each run, as a table and a chart.

    Raises:
      Empty: if no rate was logged yet.
    """
    rows = [row for run in runs if (row := _pace_row(run))]
    if not rows:
        raise Empty("No throughput was logged yet: the first entry comes after config.run.log_steps updates.")
    head = ("run", "updates", "epochs", "training time", "images per second, median", "evaluation time", "device")
    text = "Training time is that of the updates alone; online evaluation and checkpoints are left out."
    return page.table(head, rows) + page.note(text) + over_time(runs, ["images_per_second"])


def _pace_row(run: Files) -> tuple[str, ...] | None:
    timed = [e for e in run.entries if e.get("images_per_second")]
    if not timed:
        return None
    before = np.array([0, *(e["step"] for e in timed)])
    rates = np.array([e["images_per_second"] for e in timed])
    seconds = float(np.sum(np.diff(before) * run.config.batch_size / rates))
    evaluation: Any = run.results.get("evaluation_seconds")
    return (
        run.name,
        f"{run.entries[-1]['step']}",
        f"{run.entries[-1]['epoch']:.1f} of {run.config.epochs}",
        _duration(seconds),
        f"{np.median(rates):.0f}",
        _duration(evaluation) if evaluation is not None else "not evaluated",
        str(run.results.get("device", "known after evaluation")),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
