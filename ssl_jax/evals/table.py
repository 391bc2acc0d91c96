"""Results as a table for the terminal: one line a measure, one column a representation."""

from collections.abc import Iterable, Sequence

from ssl_jax.workdir import words
from ssl_jax.workdir.results import Result

ORDER = ("pretrained", "untrained", "supervised", "pixels", "pca")  # of the columns; 'chance' is the last


def table(title: str, found: Sequence[Result]) -> str:
    """Renders the results of an evaluation as an aligned table.

    Args:
      title: of the table, in its corner.
      found: its results; a spread stands behind its measure, details are left out.

    Returns:
      lines, without a newline at the end.
    """
    cells: dict[str, dict[str, str]] = {}
    for result in found:
        if result.detail:
            continue
        row = cells.setdefault(words.of(result.measure).title, {})
        row[result.of] = _cell(result.kind, result.value, result.spread)
        if result.chance is not None:
            row["chance"] = _cell(result.kind, result.chance)
    columns = [name for name in (*ORDER, "chance") if any(name in row for row in cells.values())]
    lines = [[title, *columns]]
    lines += [[measure, *(row.get(name, "") for name in columns)] for measure, row in cells.items()]
    return aligned(lines)


def aligned(lines: Iterable[Iterable[str]]) -> str:
    """Lines of cells as text in columns, with a rule under the first line."""
    rows = [list(line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = [" | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    text.insert(1, "-|-".join("-" * w for w in widths))
    return "\n".join(text)


def _cell(kind: str, value: float, spread: float | None = None) -> str:
    numbers = [value] if spread is None else [value, spread]
    if kind == "share":
        return " ± ".join(f"{100 * x:.1f}" for x in numbers) + " %"
    return " ± ".join(f"{x:.4g}" for x in numbers)
