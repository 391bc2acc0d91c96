"""Charts of the page, drawn by matplotlib as SVG in the colours of the page."""

from collections.abc import Mapping, Sequence
import html
import io
import json
import re
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
import numpy as np

# The Okabe-Ito colours, which colour-blind readers can tell apart, without those that vanish on white or on black.
COLOURS = ("#2f8fd0", "#e08a00", "#1fa37c", "#d4583a", "#c06ba0", "#8a8a8a")
# Text and axes are drawn in a colour that nothing else has, and then take that of the page.
INK = "#010203"
_WIDE = 8  # inches from which a chart scrolls on a phone, where its words would be too small
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of classes may hold dollars
    "svg.hashsalt": "ssl_jax",
    "font.size": 11,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "savefig.transparent": True,
}


class Look(NamedTuple):
    """How a line is drawn."""

    colour: str
    line: Any = "-"  # as matplotlib's linestyle
    width: float = 2.4  # points

    @property
    def style(self) -> dict[str, Any]:
        """Arguments of matplotlib's `plot`."""
        return {"color": self.colour, "linestyle": self.line, "linewidth": self.width}


_BASELINES = {"untrained": "--", "pixels": ":", "pca": "-.", "supervised": "-"}


def baseline(of: str) -> Look:
    """The look of what a run is compared with, a representation by its name."""
    return Look(COLOURS[-1], _BASELINES.get(of, "--"), 1.2)


def look(number: int) -> Look:
    """The look of the n-th of several lines: a colour each, and the same colours dashed after that."""
    count = len(COLOURS) - 1  # the last is for baselines
    return Look(COLOURS[number % count], "-" if number // count % 2 == 0 else (0, (4, 1.5)))


def axes(x: str = "", y: str = "", size: tuple[float, float] = (5, 3)) -> tuple[Figure, Any]:
    """An empty chart in the page's style."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        found = figure.subplots()
        found.set(xlabel=x, ylabel=y)
        found.grid(alpha=0.3)
        found.spines[["top", "right"]].set_visible(False)
    return figure, found


def legend(axes: Any) -> None:
    """Names the lines of a chart that have a label, if any has, above it."""
    count = len(axes.get_legend_handles_labels()[1])
    if count:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": min(count, 4), "borderaxespad": 0.2}
        axes.legend(fontsize=9, frameon=False, labelcolor=INK, **place)


def name_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes names at the right ends of lines, apart from each other, with a thread to a line that is further off.

    Args:
      axes: of the chart.
      ends: x, y, name and colour of each.
    """
    low, high = axes.get_ylim()
    gap = 0.035 * (high - low) * 4 / axes.figure.get_figheight() * 1.5
    ends = sorted(ends, key=lambda end: -end[1])
    places, ceiling = [], high + gap
    for _, y, _, _ in ends:
        ceiling = min(y, ceiling - gap)
        places.append(ceiling)
    floor = low - gap
    for i in reversed(range(len(places))):
        floor = places[i] = max(places[i], floor + gap)
    right = max((x for x, *_ in ends), default=0)
    left, most = axes.get_xlim()
    share = 0.03 * (most - left)
    for (x, y, name, colour), place in zip(ends, places, strict=True):
        axes.plot((x, right + share), (y, place), color=colour, linewidth=0.6, alpha=0.6, clip_on=False)
        text = {"va": "center", "fontsize": 9, "color": colour, "annotation_clip": False}
        axes.annotate(name, (right + share, place), xytext=(3, 0), textcoords="offset points", **text)
    axes.set_xlim(left, most)
    axes.set_ylim(low, high)


def chart(figure: Figure, title: str, told: Mapping[str, Line2D] | None = None, hint: str = "") -> str:
    """A figure as inline SVG below its title.

    Args:
      figure: to be drawn.
      title: plain text.
      told: lines by name, of which the pointer tells the nearest point.
      hint: what the pointer shows over the title.
    """
    text, more = html.escape(title), ""
    drawing = svg(figure)
    if told:
        more = f' data-points="{html.escape(json.dumps(_points(figure, told), separators=(",", ":")))}"'
    caption = f'<abbr title="{html.escape(hint)}">{text}</abbr>' if hint else text
    kind = "chart wide" if figure.get_figwidth() > _WIDE else "chart"
    return (
        f'<figure class="{kind}" role="img" aria-label="{text}"{more}><figcaption>{caption}</figcaption>'
        f'<div class="drawing">{drawing}{TIP if told else ""}</div></figure>'
    )


def _points(figure: Figure, told: Mapping[str, Line2D]) -> list[tuple[float, float, str]]:
    """Places of the points of lines in shares of the drawing, and their values in words."""
    found = []
    for name, line in told.items():
        axes: Any = line.axes
        data = np.asarray(line.get_xydata(), float)
        places = axes.transData.transform(data) / (figure.bbox.width, figure.bbox.height)
        unit = " %" if "%" in axes.get_ylabel() else ""
        ticks = (
            [t.get_text() for t in axes.get_xticklabels()]
            if isinstance(axes.xaxis.get_major_locator(), FixedLocator)
            else []
        )
        for (x, y), (left, up) in zip(data, places, strict=True):
            at = ticks[round(x)] if ticks else f"{x:.4g}"
            found.append((round(left, 4), round(1 - up, 4), f"{name}: {y:.4g}{unit} ({axes.get_xlabel()}: {at})"))
    return found


# What appears under the pointer: a picture where there is one, and words.
TIP = '<div class="tip" hidden><span></span><b></b></div>'


def svg(figure: Figure) -> str:
    """A figure as inline SVG, in the colours of the page."""
    out = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # Many drawings share one page: the numbers that matplotlib gives to groups would be there again and again.
    text = re.sub(r' id="[a-zA-Z0-9]+_\d+"', "", text)
    return text.replace(INK, "currentColor")
