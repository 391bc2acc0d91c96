"""The page's building blocks: sections, tables, charts and images as HTML that needs nothing from outside."""

import base64
from collections.abc import Callable, Mapping, Sequence
import html
import io
import logging
import re
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from ssl_jax.report.style import SCRIPT, STYLE
from ssl_jax.runtime.errors import UserError

logger = logging.getLogger("ssl_jax")

# The Okabe-Ito colours, which colour-blind readers can tell apart, without those that vanish on white or on black.
COLOURS = ("#2f8fd0", "#e08a00", "#1fa37c", "#d4583a", "#c06ba0", "#8a8a8a")
# Text and axes are drawn in a colour that nothing else has, and then take that of the page.
INK = "#010203"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of classes may hold dollars
    "svg.hashsalt": "ssl_jax",
    "font.size": 11,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "savefig.transparent": True,
}
_LARGEST = 112  # side of a small picture that is kept, pixels


class Empty(Exception):
    """A section cannot be filled; the message is the sentence that stands there instead."""


class Absent(Empty):
    """A section has no meaning for these runs, and is left out with its link."""


class Cell(NamedTuple):
    """One small picture of a table, with a line of text under it."""

    image: np.ndarray  # [H, W, C] in [0, 1]
    text: str = ""
    mark: str = ""  # 'good' or 'bad' colours the text


def page(title: str, lead: str, sections: Sequence[tuple[str, Callable[[], str]]], extra_style: str = "") -> str:
    """The whole page.

    Args:
      title: heading, plain text.
      lead: HTML below it.
      sections: heading and what makes its HTML; where that raises `Empty` or `UserError`, the reason stands there.
      extra_style: further CSS.
    """
    made = {name: text for name, make in sections if (text := _section(name, make))}
    links = "".join(f'<a href="#{_slug(name)}">{html.escape(name)}</a>' for name in made)
    body = "".join(made.values())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}{extra_style}</style></head><body><h1>{html.escape(title)}</h1>{lead}<nav>{links}</nav>"
        f"{body}<script>{SCRIPT}</script></body></html>\n"
    )


def _section(name: str, make: Callable[[], str]) -> str:
    try:
        content = make()
    except Absent:
        return ""
    except (Empty, UserError) as reason:
        content = f'<p class="none">{html.escape(str(reason))}</p>'
    except Exception as error:  # one section must not cost the others
        logger.warning("The section '%s' of the report failed.", name, exc_info=True)
        content = f'<p class="none">{html.escape(f"This could not be drawn ({type(error).__name__}: {error}).")}</p>'
    return f'<section id="{_slug(name)}"><h2>{html.escape(name)}</h2>{content}</section>'


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())


def note(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1, hints: Mapping[str, str] | None = None
) -> str:
    """A table of plain text that scrolls in itself where it is too wide; its first one or two columns are names.

    Args:
      head: titles of the columns.
      rows: cells.
      names: columns that are names.
      hints: what the pointer shows over a cell of this text.
    """

    def cell(text: str, tag: str) -> str:
        hint = (hints or {}).get(text)
        told = html.escape(text)
        return f"<{tag}>" + (f'<abbr title="{html.escape(hint)}">{told}</abbr>' if hint else told) + f"</{tag}>"

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(cell(c, tag) for c in cells) + "</tr>"

    kind = ' class="two"' if names == 2 else ""
    return f'<div class="scroll"><table{kind}>{line(head, "th")}{"".join(line(r, "td") for r in rows)}</table></div>'


def folded(summary: str, content: str) -> str:
    """HTML that is folded away."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def details(summary: str, text: str) -> str:
    """Plain text that is folded away."""
    return folded(summary, f"<pre>{html.escape(text)}</pre>")


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


def key(entries: Sequence[tuple[str, str]]) -> str:
    """Names and their colours, once for several charts."""
    parts = (f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>' for name, colour in entries)
    return f'<div class="key">{"".join(parts)}</div>'


def name_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes names at the right ends of lines, apart from each other.

    Args:
      axes: of the chart, with room at its right.
      ends: x, y, name and colour of each.
    """
    low, high = axes.get_ylim()
    gap, ceiling = 0.06 * (high - low), high + 0.06 * (high - low)
    place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
    for x, y, name, colour in sorted(ends, key=lambda end: -end[1]):
        ceiling = min(y, ceiling - gap)
        axes.annotate(name, (x, ceiling), fontsize=9, color=colour, **place)


def chart(figure: Figure, title: str) -> str:
    """A figure as inline SVG below its title."""
    text = html.escape(title)
    return f'<figure class="chart" role="img" aria-label="{text}"><figcaption>{text}</figcaption>{svg(figure)}</figure>'


def charts(figures: Sequence[str]) -> str:
    """Charts beside each other where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'


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


def pictures(columns: Sequence[str], rows: Sequence[Sequence[Cell]], width: int = 0) -> str:
    """A table of small pictures with a heading a column.

    Args:
      columns: headings.
      rows: the pictures.
      width: of each on the page, pixels; 0 for 64, or what they have if that is more.
    """

    def cell(c: Cell) -> str:
        side = width or max(64, min(c.image.shape[1], _LARGEST))
        text = f'<span class="{c.mark}">{html.escape(c.text)}</span>' if c.text else ""
        return f'<td><img alt="{html.escape(c.text)}" width="{side}" src="{data_uri(c.image)}">{text}</td>'

    head = "<tr>" + "".join(f"<th>{html.escape(c)}</th>" for c in columns) + "</tr>" if any(columns) else ""
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="pictures">{head}{body}</table></div>'


def data_uri(image: np.ndarray) -> str:
    """An image [H, W, C] in [0, 1] as a data URI: small ones exactly, larger ones made smaller, as JPEG."""
    pixels = Image.fromarray((np.clip(_rgb(image), 0, 1) * 255).round().astype(np.uint8))
    large = max(pixels.size) > 64
    if large:
        pixels.thumbnail((_LARGEST, _LARGEST))
    return encoded(pixels, "JPEG" if large else "PNG")


def encoded(pixels: Image.Image, kind: str) -> str:
    """A picture as a data URI of 'PNG' or 'JPEG'."""
    out = io.BytesIO()
    pixels.save(out, kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64," + base64.b64encode(out.getvalue()).decode()


def _rgb(image: np.ndarray) -> np.ndarray:
    """Gray as three equal channels; of other numbers of channels the first."""
    return image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
