"""Results as a table for the terminal: one line a measure, one column a representation."""

from collections.abc import Iterable, Mapping
from typing import Any

# Suffix of a name to the title of its column. A measure's baseline is what an answer that knows nothing would have.
COLUMNS = {
    "": "pretrained",
    "_untrained": "untrained",
    "_supervised": "supervised",
    "_pixels": "pixels",
    "_baseline": "knows nothing",
}
# Stored beside a measure, but no measures themselves.
_DETAILS = ("learning_rate", "c", "held_out_top1", "at_edge", "converged", "images")
_SPREADS = ("_ci95", "_std")


def split(name: str) -> tuple[str, str]:
    """A flat name as the measure and the suffix that names the representation."""
    for suffix in COLUMNS:
        if suffix and name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, ""


def table(title: str, values: Mapping[str, Any], percent: bool) -> str:
    """Renders one protocol's results as an aligned table.

    Args:
      title: of the table, in its corner.
      values: flat names to numbers; a spread (`_ci95`, `_std`) stands behind its measure, details are left out.
      percent: whether the values are shares, to be shown in %.

    Returns:
      lines, without a newline at the end.
    """
    cells: dict[str, dict[str, str]] = {}
    for name, value in values.items():
        measure, suffix = split(name)
        if _is_spread(measure, suffix, values) or measure.rsplit("/", 1)[-1] in _DETAILS:
            continue
        spreads = [values[f"{measure}{s}{suffix}"] for s in _SPREADS if f"{measure}{s}{suffix}" in values]
        cells.setdefault(measure, {})[suffix] = " ± ".join(_number(v, percent) for v in (value, *spreads))
    suffixes = [s for s in COLUMNS if any(s in row for row in cells.values())]
    lines = [[title + (", %" if percent else ""), *(COLUMNS[s] for s in suffixes)]]
    lines += [[measure, *(row.get(s, "") for s in suffixes)] for measure, row in cells.items()]
    return aligned(lines)


def aligned(lines: Iterable[Iterable[str]]) -> str:
    """Lines of cells as text in columns, with a rule under the first line."""
    rows = [list(line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = [" | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    text.insert(1, "-|-".join("-" * w for w in widths))
    return "\n".join(text)


def _is_spread(measure: str, suffix: str, values: Mapping[str, Any]) -> bool:
    return any(measure.endswith(s) and f"{measure.removesuffix(s)}{suffix}" in values for s in _SPREADS)


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.1f}" if percent else f"{value:.4g}"
