"""The matrix as a page: win rates over the untrained network, affinities, and a graph of the strongest transfers."""

import html
from typing import Any

from matplotlib.figure import Figure
import numpy as np

from ssl_jax.report.draw import axes, chart
from ssl_jax.report.page import Section, note, page, table

_STRONGEST = 2  # sources of a target that the graph shows


def html_of(summary: dict[str, Any]) -> str:
    """The page of a summary, as `Matrix.summary` makes it."""
    rows, targets, budget = summary["rows"], summary["targets"], summary["budget"]
    data = html.escape(str(summary["data"] or "the data of the first run"))
    lead = (
        f"{len(rows)} backbones and {len(targets)} tasks on {data}. "
        f"Each decoder has {budget['images']} images and {budget['updates']} updates; the matrix took "
        f"{summary['seconds'] / 60:.1f} minutes."
    )
    sections = [
        Section("Gain over no training", lambda: _gains(rows, targets)),
        Section("Affinity of each source to each task", lambda: _affinities(rows, targets)),
        Section("Strongest transfers", lambda: chart(_graph(rows, targets), "From pretext (left) to task (right)")),
        Section("Mean losses", lambda: _losses(rows, targets)),
    ]
    return page("What transfers to what", f"<p>{lead}</p>", sections)


def _gains(rows: list[str], targets: dict[str, Any]) -> str:
    gains = np.array([entry["gain"] for entry in targets.values()]).T
    words = "Share of the held-out images on which the pretrained backbone has the lower loss; 50 % is no difference."
    return note(words) + chart(_heat(100 * gains, rows, list(targets), 0, 100), "%")


def _affinities(rows: list[str], targets: dict[str, Any]) -> str:
    found = np.array([entry["affinity"] for entry in targets.values()]).T
    words = "From all win rates between two sources, by the analytic hierarchy process; each column sums to 100."
    return note(words) + chart(_heat(100 * found, rows, list(targets), 0, 100 * float(found.max())), "share of 100")


def _heat(values: np.ndarray, rows: list[str], columns: list[str], low: float, high: float) -> Figure:
    figure, drawing = axes(size=(1.5 + 0.75 * len(columns), 1.2 + 0.34 * len(rows)))
    drawing.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto")
    drawing.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    drawing.set_yticks(range(len(rows)), rows)
    for (i, j), value in np.ndenumerate(values):
        bright = value > (low + high) / 2
        drawing.text(j, i, f"{value:.0f}", ha="center", va="center", color="#000000" if bright else "#ffffff")
    return figure


def _graph(rows: list[str], targets: dict[str, Any]) -> Figure:
    """Lines from each task's strongest sources, the thicker the greater their affinity."""
    figure, drawing = axes(size=(6, 1 + 0.4 * max(len(rows), len(targets))))
    left = np.linspace(1, 0, len(rows))
    right = np.linspace(1, 0, len(targets))
    for y, row in zip(left, rows, strict=True):
        drawing.text(-0.02, y, row, ha="right", va="center")
    for y, (name, entry) in zip(right, targets.items(), strict=True):
        drawing.text(1.02, y, name, ha="left", va="center")
        for source in np.argsort(entry["affinity"])[::-1][:_STRONGEST]:
            strength = entry["affinity"][source]
            drawing.plot([0, 1], [left[source], y], color="#2f8fd0", linewidth=6 * strength + 0.5, alpha=0.7)
    drawing.set_xlim(-0.5, 1.5)
    drawing.axis("off")
    return figure


def _losses(rows: list[str], targets: dict[str, Any]) -> str:
    lines = [[row, *(f"{entry['loss'][number]:.4g}" for entry in targets.values())] for number, row in enumerate(rows)]
    return table(["source", *targets], lines)
