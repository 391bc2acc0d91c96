"""Numbers over time and over labels as charts: of all given runs together, one colour a run."""

import re
from typing import Any

import numpy as np

from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.report import page
from ssl_jax.report.page import COLOURS, Empty
from ssl_jax.report.runs import Files
from ssl_jax.report.tables import group_of, row_of
from ssl_jax.workdir.results import Result, numbers

_POINTS = 400  # of a line at most; a page is no place for every update of a long run
_TITLES = {
    "knn/top1": "kNN accuracy of the frozen features",
    "probe_top1": "Accuracy of the online linear probe, training batches",
    "feature_std": "Spread of the features (standard deviation; healthy: 1/√d)",
    "rankme": "Effective rank of the features (RankMe)",
    "health/dead_units": "Share of the features that are the same for all images",
    "health/uniformity": "Uniformity of the features (lower: spread more evenly)",
    "input_wait": "Share of the time that steps waited for input",
    "grad_norm": "Norm of the gradient",
    "images_per_second": "Throughput, images a second",
    "loss": "Loss",
}
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
    return page.charts([_chart(runs, name, reference if name == "loss" else None) for name in names])


def _absent(runs: list[Files], wanted: str) -> str:
    if not any(run.entries for run in runs):
        return "Nothing has been logged yet: the run has just begun."
    if wanted == "accuracy":
        return "No accuracy was logged: the data set has no labels, or config.run.eval_epochs is 0."
    return f"Nothing of this kind ({wanted}) was logged."


def _chart(runs: list[Files], name: str, reference: float | None) -> str:
    figure, axes = page.axes("epoch")
    labelled = len(runs) > 1
    for colour, run in zip(_cycle(len(runs)), runs, strict=True):
        for companion, title in {"": "", **_COMPANIONS}.items():
            x, y = run.series(name + companion)
            keep = evenly_spaced(np.arange(len(x)), _POINTS)
            if x:
                label = " ".join(part for part in (run.name if labelled else "", title) if part)
                style = {"linestyle": "--", "alpha": 0.7} if companion else {"marker": "." if len(x) < 40 else None}
                axes.plot(np.array(x)[keep], np.array(y)[keep], label=label or None, color=colour, **style)
    if reference is not None:
        axes.axhline(reference, color=COLOURS[-1], linestyle=":", label="chance")
    page.legend(axes)
    return page.chart(figure, _TITLES.get(name, name))


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def over_labels(runs: list[Files]) -> str:
    """Charts of accuracy against the number of labels, from all results that have such counts.

    Raises:
      Empty: if there are none.
    """
    found = {(run.name, group_of(r)) for run in runs for r in numbers(run.results) if group_of(r) in _LABELS_AXIS}
    groups = [g for g in _LABELS_AXIS if any(group == g for _, group in found)]
    figures = [figure for group in groups if (figure := _labels_chart(runs, group))]
    if not figures:
        raise Empty("No accuracy with few labels was measured: run python -m ssl_jax.evaluate with the same --workdir.")
    return page.charts(figures)


def _labels_chart(runs: list[Files], group: str) -> str:
    lines: dict[str, list[Result]] = {}
    for run in runs:
        for r in numbers(run.results):
            if group_of(r) == group and re.fullmatch(r"[\d.]+|all", _labels(r)):
                lines.setdefault(f"{run.name} {r.of}" if len(runs) > 1 else r.of, []).append(r)
    counts = sorted({_labels(r) for line in lines.values() for r in line}, key=_count)
    if not counts:
        return ""
    figure, axes = page.axes(_LABELS_AXIS[group], "test accuracy, %")
    for colour, (label, line) in zip(_cycle(len(lines)), lines.items(), strict=True):
        line = sorted(line, key=lambda r: _count(_labels(r)))
        x = [counts.index(_labels(r)) for r in line]
        y, spread = [100 * r.value for r in line], [100 * (r.spread or 0) for r in line]
        axes.errorbar(x, y, spread, label=label, color=colour, marker="o", markersize=4, capsize=3)
    axes.set_xticks(range(len(counts)), counts)
    page.legend(axes)
    return page.chart(figure, f"Accuracy against labels: {group}")


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
    head = ("run", "updates", "epochs", "training time", "images a second, median", "evaluation time", "device")
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
