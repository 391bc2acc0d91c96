"""The page's building blocks: sections, tables, charts and images as HTML that needs nothing from outside."""

import base64
from collections.abc import Callable, Sequence
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

from ssl_jax.runtime.errors import UserError

logger = logging.getLogger("ssl_jax")

# The Okabe-Ito colours, which colour-blind readers can tell apart, without those that vanish on white or on black.
COLOURS = ("#2f8fd0", "#e08a00", "#1fa37c", "#d4583a", "#c06ba0", "#8a8a8a")
# Text and axes are drawn in a colour that nothing else has, and then take that of the page.
_INK = "#010203"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ssl_jax",
    "font.size": 11,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "savefig.transparent": True,
}
_LARGEST = 112  # side of a small picture that is kept, pixels

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --paper: #ffffff; --line: #d7dce5; --soft: #566072;
        --good: #0a7a55; --bad: #b3391d; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebf1; --paper: #12161d; --line: #333b49; --soft: #9aa5b8; --good: #4fd0a2; --bad: #ff8d70;
          --card: #1a202a; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 64rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, figcaption { color: var(--soft); margin: .4rem 0; } figure { margin: .8rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; } a { color: inherit; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); gap: .8rem; }
.charts figure { margin: 0; min-width: 0; }
.chart, .map { background: var(--card); border-radius: 6px; padding: 6px; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
.scroll { overflow-x: auto; max-width: 100%; } table { border-collapse: collapse; font-size: .92rem; }
.scroll td, .scroll th { overflow-wrap: normal; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.two :is(th, td):nth-child(2) { text-align: left; }
.pictures th, .pictures td { text-align: center; padding: .25rem; border: 0; font-size: .8rem; vertical-align: top; }
.pictures th:first-child, .pictures td:first-child { text-align: center; }
.pictures img { display: block; margin: 0 auto; } img { image-rendering: pixelated; }
.good { color: var(--good); } .bad { color: var(--bad); } .none { font-style: italic; }
.key { display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .85rem; }
.key i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .35em; }
.map { position: relative; } .map svg { cursor: crosshair; touch-action: pan-y; }
.tip { position: absolute; pointer-events: none; background: var(--paper); border: 1px solid var(--line); z-index: 1;
       border-radius: 4px; padding: 4px; font-size: .8rem; text-align: center; width: 82px; }
.tip span { display: block; width: 72px; height: 72px; image-rendering: pixelated; }
summary { cursor: pointer; font-weight: 600; margin-top: 1rem; }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; padding: .8rem; font-size: .85rem; }
"""
# Shows the image of the point nearest to the pointer. Points are [x, y, name], in shares of the drawing.
_SCRIPT = """
for (const map of document.querySelectorAll(".map")) {
  const points = JSON.parse(map.dataset.points), columns = +map.dataset.columns, side = 72;
  const drawing = map.querySelector("svg"), tip = map.querySelector(".tip");
  const [picture, name] = tip.children;
  function show(event) {
    const box = drawing.getBoundingClientRect(), outer = map.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = 24 * 24;
    points.forEach((p, i) => {
      const d = (p[0] * box.width - x) ** 2 + (p[1] * box.height - y) ** 2;
      if (d < least) { least = d; best = i; }
    });
    tip.hidden = best < 0;
    if (best < 0) return;
    picture.style.backgroundSize = `${columns * side}px auto`;
    picture.style.backgroundPosition = `${-(best % columns) * side}px ${-Math.floor(best / columns) * side}px`;
    name.textContent = points[best][2];
    const left = Math.min(event.clientX - outer.left + 12, outer.width - 86);
    tip.style.left = `${Math.max(left, 0)}px`;
    tip.style.top = `${Math.max(event.clientY - outer.top - 110, 0)}px`;
  }
  drawing.addEventListener("pointermove", show);
  drawing.addEventListener("pointerdown", show);
  drawing.addEventListener("pointerleave", () => { tip.hidden = true; });
}
"""


class Empty(Exception):
    """A section cannot be filled; the message is the sentence that stands there instead."""


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
    links = "".join(f'<a href="#{_slug(name)}">{html.escape(name)}</a>' for name, _ in sections)
    body = "".join(_section(name, make) for name, make in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}{extra_style}</style></head><body><h1>{html.escape(title)}</h1>{lead}<nav>{links}</nav>"
        f"{body}<script>{_SCRIPT}</script></body></html>\n"
    )


def _section(name: str, make: Callable[[], str]) -> str:
    try:
        content = make()
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """A table of plain text that scrolls in itself where it is too wide; its first one or two columns are names."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    kind = ' class="two"' if names == 2 else ""
    return f'<div class="scroll"><table{kind}>{line(head, "th")}{"".join(line(r, "td") for r in rows)}</table></div>'


def details(summary: str, text: str) -> str:
    """Plain text that is folded away."""
    return f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>"


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
    """Names the lines of a chart that have a label, if any has."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=9, frameon=False, labelcolor=_INK)


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
    return text.replace(_INK, "currentColor")


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
