"""The numbers of results.json, whatever evaluation wrote there, and what differs between configs, as tables."""

import json
from typing import Any

from ssl_jax.report import page
from ssl_jax.report.page import Absent, Empty
from ssl_jax.report.runs import Files
from ssl_jax.workdir import words
from ssl_jax.workdir.results import Result, numbers

_ORDER = ("pretrained", "untrained", "supervised", "pixels", "pca", "chance")  # of the columns

_ABSENT = "absent"


def group_of(result: Result) -> str:
    """The part of a measure's name before the first slash, or 'health'."""
    return result.measure.partition("/")[0] if "/" in result.measure else "health"


def row_of(result: Result) -> str:
    """The rest of a measure's name."""
    return result.measure.partition("/")[2] or result.measure


def results(runs: list[Files]) -> str:
    """One table a group of results.

    Raises:
      Empty: if no run has any.
    """
    parsed = [(run, numbers(run.results)) for run in runs]
    groups = sorted(dict.fromkeys(group_of(r) for _, found in parsed for r in found), key=lambda g: g == "seconds")
    if not groups:
        raise Empty("Not evaluated yet: run ssl_jax evaluate on the same workdir.")
    parts = []
    for run in runs:
        if run.results and run.entries and run.results.get("step") not in (None, run.entries[-1]["step"]):
            parts.append(page.note(f"{run.name} was evaluated after update {run.results['step']} and trained on."))
    for group in groups:
        parts.append(f"<h3>{page.html.escape(words.group(group))}</h3>")
        parts.append(_group_table([(run.name, [r for r in found if group_of(r) == group]) for run, found in parsed]))
    text = "".join(parts)
    return text if len(runs) == 1 else page.folded(f"Every number of {len(runs)} runs", text)


def _group_table(found: list[tuple[str, list[Result]]]) -> str:
    present = {r.of for _, results in found for r in results}
    present |= {"chance" for _, results in found for r in results if r.chance is not None}
    columns = [name for name in _ORDER if name in present]
    several = len(found) > 1
    rows: list[tuple[str, ...]] = []
    hints: dict[str, str] = {}
    for name, results in found:
        for row in dict.fromkeys(row_of(r) for r in results):
            own = [r for r in results if row_of(r) == row]
            told = words.of(own[0].measure)
            hints[told.title] = told.definition
            cells = {r.of: _cell(r) for r in own}
            for r in own:
                if r.chance is not None:
                    cells["chance"] = _cell(r._replace(value=r.chance, spread=None))
            rows.append((told.title, *((name,) if several else ()), *(cells.get(c, "") for c in columns)))
    places = {name: place for place, name in enumerate(dict.fromkeys(row[0] for row in rows))}
    rows.sort(key=lambda row: places[row[0]])  # the same measure of several runs together
    head = ("", *(("run",) if several else ()), *(words.REPRESENTATIONS[c] for c in columns))
    return page.table(head, rows, 2 if several else 1, {name: hint for name, hint in hints.items() if hint})


def _cell(r: Result) -> str:
    share = r.kind == "share" and not (r.detail and r.value > 1)  # a rate that was chosen is no share
    scale = 100 if share else 1
    value = f"{scale * r.value:.1f}" if share else f"{r.value:.4g}"
    spread = (f" ± {scale * r.spread:.1f}" if share else f" ± {r.spread:.2g}") if r.spread else ""
    return value + spread + (" %" if share else "")


def differences(runs: list[Files]) -> str:
    """The fields of the configs in which runs differ.

    Raises:
      Empty: if there is one run alone, or no difference.
    """
    if len(runs) == 1:
        raise Absent("There is one run alone.")
    flat = [_flat(run.config.to_dict(), "") for run in runs]
    fields = dict.fromkeys(field for f in flat for field in f)
    rows = [(field, *(_shown(f, field) for f in flat)) for field in fields]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        raise Empty("The configs are equal.")
    # What only some methods have says that the methods differ, and nothing else.
    common = [row for row in rows if _ABSENT not in row]
    head = ("field", *(run.name for run in runs))
    text = page.table(head, common) if common else page.note("No field that all have differs.")
    if own := [row for row in rows if _ABSENT in row]:
        text += page.folded(f"{len(own)} fields that only some of the methods have", page.table(head, own))
    return text


def _flat(config: dict[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _shown(flat: dict[str, Any], field: str) -> str:
    return json.dumps(flat[field]) if field in flat else _ABSENT


def records(runs: list[Files]) -> str:
    """Config and results of each run as they are stored, folded away."""
    parts = []
    for run in runs:
        parts.append(page.details(f"Config of {run.name}", json.dumps(run.config.to_dict(), indent=2)))
        if run.results:
            kept = {k: v for k, v in run.results.items() if k != "config"}
            parts.append(page.details(f"Results of {run.name}", json.dumps(kept, indent=2)))
    return "".join(parts)
