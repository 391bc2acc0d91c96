"""Numbers over time and over labels as charts: of all given runs together, one colour a run."""

import re
from typing import Any

from matplotlib.ticker import MaxNLocator
import numpy as np

from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.report import page
from ssl_jax.report.page import COLOURS, Empty
from ssl_jax.report.runs import Files, groups
from ssl_jax.report.tables import group_of, row_of
from ssl_jax.workdir import words
from ssl_jax.workdir.results import Result, numbers

_POINTS = 400  # of a line at most; a page is no place for every update of a long run
_USUAL, _WIDE = (5.0, 3.0), (9.0, 4.0)  # inches: of a chart among others, and of one that fills the page
_TITLES = {
    "knn/top1": "kNN accuracy of the frozen features",
    "probe_top1": "Accuracy of the online linear probe, training batches",
    "feature_std": "Spread of the features (standard deviation; healthy: 1/√d)",
    "rankme": "Effective rank of the features (RankMe)",
    "health/dead_units": "Dead units: share of the features that are the same for all images",
    "health/uniformity": "Uniformity of the features (lower: spread more evenly)",
    "input_wait": "Share of the time that steps waited for input",
    "grad_norm": "Norm of the gradient",
    "images_per_second": "Throughput, images per second",
    "loss": "Loss",
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


def over_time(runs: list[Files], wanted: str, reference: float | None = None) -> str:
    """Charts of all logged numbers of one kind.

    Args:
      runs: whose numbers.
      wanted: one of the kinds that `kind` tells.
      reference: a level to draw into the charts of 'loss', that of an answer by chance.

    Raises:
      Empty: if nothing of the kind was logged.
    """
    logged = {n for run in runs for e in run.entries for n in e} - {"step", "epoch"}
    names = sorted(n for n in logged if kind(n) == wanted and not n.endswith(tuple(_COMPANIONS)))
    if not names:
        raise Empty(_absent(runs, wanted))
    methods = {run.config.method.name for run in runs}
    if wanted == "loss" and len(methods) > 1:  # losses of several methods have nothing in common but the name
        own = [(g, name) for g in groups(runs) for name in names if any(name in run.logged for run in g.runs)]
        return page.charts([_chart(group.runs, name, None, group.name) for group, name in own])
    shown = [name for name in names if name not in _IF_ANY or any(any(run.series(name)[1]) for run in runs)]
    size = _WIDE if len(shown) == 1 else _USUAL
    charts = page.charts([_chart(runs, name, reference if name == "loss" else None, size=size) for name in shown])
    return charts if len(runs) == 1 else page.key([(run.name, c) for run, c in _coloured(runs)]) + charts


def _absent(runs: list[Files], wanted: str) -> str:
    if not any(run.entries for run in runs):
        return "Nothing has been logged yet: the run has just begun."
    if wanted == "accuracy":
        return "No accuracy was logged: the data set has no labels, or config.run.eval_epochs is 0."
    return f"Nothing of this kind ({wanted}) was logged."


def _chart(
    runs: list[Files],
    name: str,
    reference: float | None,
    of: str = "",
    size: tuple[float, float] = _USUAL,
) -> str:
    share = kind(name) == "accuracy"
    figure, axes = page.axes("epoch", "%" if share else "", size)
    scale, first = 100 if share else 1, runs[0]
    for run, colour in _coloured(runs):
        for companion, title in {"": "", **_COMPANIONS}.items():
            x, y = run.series(name + companion)
            keep = evenly_spaced(np.arange(len(x)), _POINTS)
            if x:
                style = {"linestyle": "--", "alpha": 0.7} if companion else {"marker": "." if len(x) < 40 else None}
                label = title if run is first and title else None
                axes.plot(np.array(x)[keep], scale * np.array(y)[keep], label=label, color=colour, **style)
    if reference is not None:
        axes.axhline(reference, color=COLOURS[-1], linestyle=":", label="chance")
    if axes.get_xlim()[1] > 2:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    page.legend(axes)
    told = _TITLES.get(name, name.replace("_", " ").replace("/", ", "))
    return page.chart(figure, f"{told}: {of}" if of else told)


def _coloured(runs: list[Files]) -> list[tuple[Files, str]]:
    """Runs with their colours: one colour a group of seeds."""
    chosen = {id(run): i for i, group in enumerate(groups(runs)) for run in group.runs}
    return [(run, COLOURS[chosen[id(run)] % len(COLOURS)]) for run in runs]


def over_labels(runs: list[Files]) -> str:
    """Charts of accuracy against the number of labels, from all results that have such counts.

    Raises:
      Empty: if there are none.
    """
    found = {(run.name, group_of(r)) for run in runs for r in numbers(run.results) if group_of(r) in _LABELS_AXIS}
    groups = [g for g in _LABELS_AXIS if any(group == g for _, group in found)]
    figures = [figure for group in groups if (figure := _labels_chart(runs, group))]
    if not figures:
        raise Empty("No accuracy with few labels was measured: run ssl_jax evaluate on the same workdir.")
    return page.charts(figures)


def _labels_chart(runs: list[Files], group: str) -> str:
    lines = _label_lines(runs, group)
    counts = sorted({count for _, _, points in lines for count in points}, key=_count)
    if not counts:
        return ""
    figure, axes = page.axes(_LABELS_AXIS[group], "test accuracy, %", _WIDE)
    ends = []
    for name, style, points in lines:
        x = [counts.index(c) for c in sorted(points, key=_count)]
        y, spread = zip(*(points[counts[i]] for i in x), strict=True)
        axes.errorbar(x, y, spread, markersize=4, capsize=3, marker="o", **style)
        ends.append((x[-1], y[-1], name, style["color"]))
    axes.set_xticks(range(len(counts)), counts)
    axes.set_xlim(-0.2, (len(counts) - 1) * 1.15 + 0.3)
    page.name_ends(axes, ends)
    return page.chart(figure, words.group(group))


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
            look: dict[str, Any] = {"color": COLOURS[-1], "linestyle": _BASELINES.get(of, "--"), "linewidth": 1.2}
            if main:
                again = number >= len(COLOURS) - 1  # a colour for the second time
                look = {"color": COLOURS[number % (len(COLOURS) - 1)], "linewidth": 2.4}
                look |= {"linestyle": (0, (4, 1.5))} if again else {}
            name = members.name if main and several else of
            lines.append((name, look, {count: _mean(results) for count, results in points.items()}))
    same = {name: points for name, _, points in lines}
    return [line for line in lines if line[0] != "pca" or not _alike(line[2], same.get("pixels", {}))]


_BASELINES = {"untrained": "--", "pixels": ":", "pca": "-.", "supervised": "-"}


def _mean(results: list[Result]) -> tuple[float, float]:
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
    return page.table(head, rows) + page.note(text) + over_time(runs, "throughput")


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
