"""The page's building blocks: sections, tables, charts and images as HTML that needs nothing from outside."""

import base64
from collections.abc import Callable, Mapping, Sequence
import html
import io
import logging
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from ssl_jax.methods.contract import Picture
from ssl_jax.report.style import SCRIPT, STYLE
from ssl_jax.runtime.errors import UserError

logger = logging.getLogger("ssl_jax")

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
    name: str = ""  # of the file, below the text


class Section(NamedTuple):
    """A part of the page."""

    name: str  # its heading
    make: Callable[[], str]  # its HTML; where that raises `Empty` or `UserError`, the reason stands there
    folded: bool = False


def page(title: str, lead: str, sections: Sequence[Section], extra_style: str = "") -> str:
    """The whole page.

    Args:
      title: heading, plain text.
      lead: HTML below it.
      sections: its parts; those that are `Absent` are left out.
      extra_style: further CSS.
    """
    made = {section.name: text for section in sections if (text := _section(section))}
    links = "".join(f'<a href="#{_slug(name)}">{html.escape(name)}</a>' for name in made)
    body = "".join(made.values())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}{extra_style}</style></head><body><h1>{html.escape(title)}</h1>{lead}<nav>{links}</nav>"
        f"{body}<script>{SCRIPT}</script></body></html>\n"
    )


def _section(section: Section) -> str:
    name = section.name
    try:
        content = section.make()
    except Absent:
        return ""
    except (Empty, UserError) as reason:
        content = f'<p class="none">{html.escape(str(reason))}</p>'
    except Exception as error:  # one section must not cost the others
        logger.warning("The section '%s' of the report failed.", name, exc_info=True)
        content = f'<p class="none">{html.escape(f"This could not be drawn ({type(error).__name__}: {error}).")}</p>'
    text = f"<h2>{html.escape(name)}</h2>"
    if section.folded:
        content = f"<details><summary>{text}</summary>{content}</details>"
    return f'<section id="{_slug(name)}">{content if section.folded else text + content}</section>'


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


def charts(figures: Sequence[str]) -> str:
    """Charts beside each other where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'


def pairs(figures: Sequence[str]) -> str:
    """Charts of several heights in two columns where there is room."""
    return f'<div class="pairs">{"".join(figures)}</div>'


def beside(*parts: str) -> str:
    """Parts beside each other where there is room for their usual width."""
    return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def pictures(columns: Sequence[str], rows: Sequence[Sequence[Cell]], width: int = 0) -> str:
    """A table of small pictures with a heading a column.

    Args:
      columns: headings.
      rows: the pictures.
      width: of each on the page, pixels; 0 for 64, or what they have if that is more.
    """

    def cell(c: Cell) -> str:
        side = width or max(64, min(c.image.shape[1], _LARGEST))
        told, full, short = html.escape(c.text), html.escape(c.name), html.escape(c.name.rpartition("/")[2])
        text = f'<span class="{c.mark}">{told}</span>' if told else ""
        if full:  # one of many in a table: long names of classes and files must not widen it
            narrow = f'style="max-width:{side}px"'
            text = f'<small class="{c.mark or "plain"}" title="{told}" {narrow}>{told}</small>' if told else ""
            text += f'<small title="{full}" {narrow}>{short}</small>'
        alt = html.escape(" ".join(filter(None, (c.name, c.text))))
        return f'<td><img alt="{alt}" title="{full}" width="{side}" src="{data_uri(c.image)}">{text}</td>'

    head = "<tr>" + "".join(f"<th>{html.escape(c)}</th>" for c in columns) + "</tr>" if any(columns) else ""
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="pictures">{head}{body}</table></div>'


def picture(shown: Picture) -> str:
    """What a method or an evaluation shows: its title, and its grid of images with their captions."""
    rows = [
        [Cell(x, shown.captions[i][j] if shown.captions else "") for j, x in enumerate(row)]
        for i, row in enumerate(np.asarray(shown.images))
    ]
    return f"<h3>{html.escape(shown.title)}</h3>" + pictures(shown.columns, rows)


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
