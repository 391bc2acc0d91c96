"""The numbers of results.json, whatever evaluation wrote there, and what differs between configs, as tables."""

import json
from typing import Any, NamedTuple

from ssl_jax.report import page
from ssl_jax.report.page import Empty
from ssl_jax.report.runs import Files

# What a number is of, where it is not the pretrained backbone; as a suffix of the name, or its last part.
_VARIANTS = ("untrained", "pixels", "pca", "supervised", "baseline")
_SPREADS = ("_std", "_ci95")
_SHARES = ("top1", "top5", "accuracy", "nmi", "map", "recall", "precision", "prototypes", "logistic", "purity")
_NOT_MEASURES = ("step", "epoch", "seed", "evaluation_seconds")


class Result(NamedTuple):
    """One number of results.json."""

    group: str  # the part before the first slash, or 'health'
    row: str  # the rest
    variant: str  # 'pretrained' or one of the other variants
    value: float
    spread: float | None  # its standard deviation or confidence interval
    share: bool  # shown in %


def parse(results: dict[str, Any]) -> list[Result]:
    """The numbers of results.json with what their names tell, in its order."""
    numbers = {k: v for k, v in results.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    spreads = {name: next((s for s in _spread_names(name) if s in numbers), "") for name in numbers}
    found = []
    for name, value in numbers.items():
        if name in _NOT_MEASURES or name in spreads.values():
            continue
        spread = numbers[spreads[name]] if spreads[name] else None
        group, _, rest = name.rpartition("/") if name.count("/") == 0 else name.partition("/")
        group = group or "health"
        row, variant = _split(rest)
        metric = (row or group).split("/")[-1]
        plain = metric.split("@")[0].removeprefix("knn_").removeprefix("held_out_")
        share = group == "few_label" or plain in _SHARES or "accuracy" in metric
        found.append(Result(group, row, variant, float(value), spread, share))
    return found


def _spread_names(name: str) -> list[str]:
    """What the spread of a number may be called: of '1/pixels' '1/pixels_std', of 'x_untrained' 'x_std_untrained'."""
    ends = [""] + [f"_{variant}" for variant in _VARIANTS if name.endswith(f"_{variant}")]
    return [name.removesuffix(end) + spread + end for end in ends for spread in _SPREADS]


def _split(rest: str) -> tuple[str, str]:
    """'top1_untrained' is the row 'top1' of 'untrained'; '5/pixels' the row '5' of 'pixels'."""
    row, _, last = rest.rpartition("/")
    if last in (*_VARIANTS, "pretrained"):
        return row, last
    for variant in _VARIANTS:
        if rest.endswith(f"_{variant}"):
            return rest.removesuffix(f"_{variant}"), variant
    return rest, "pretrained"


def results(runs: list[Files]) -> str:
    """One table a group of results.

    Raises:
      Empty: if no run has any.
    """
    parsed = [(run, parse(run.results)) for run in runs]
    groups = sorted(dict.fromkeys(r.group for _, found in parsed for r in found), key=lambda g: g == "seconds")
    if not groups:
        raise Empty("Not evaluated yet: run python -m ssl_jax.evaluate with the same --workdir.")
    parts = []
    for run in runs:
        if run.results and run.entries and run.results.get("step") not in (None, run.entries[-1]["step"]):
            parts.append(page.note(f"{run.name} was evaluated after update {run.results['step']} and trained on."))
    for group in groups:
        parts.append(f"<h3>{page.html.escape(group)}</h3>")
        parts.append(_group_table([(run.name, [r for r in found if r.group == group]) for run, found in parsed]))
    return "".join(parts)


def _group_table(found: list[tuple[str, list[Result]]]) -> str:
    order = ("pixels", "pca", "baseline", "untrained", "pretrained", "supervised")
    present = {r.variant for _, results in found for r in results}
    variants = [v for v in order if v in present]
    several = len(found) > 1
    rows = []
    for name, results in found:
        for row in dict.fromkeys(r.row for r in results):
            cells = {r.variant: _cell(r) for r in results if r.row == row}
            rows.append((*((name,) if several else ()), row, *(cells.get(v, "") for v in variants)))
    return page.table((*(("run",) if several else ()), "", *variants), rows, 2 if several else 1)


def _cell(r: Result) -> str:
    scale = 100 if r.share else 1
    value = f"{scale * r.value:.1f}" if r.share else f"{r.value:.4g}"
    spread = (f" ± {scale * r.spread:.1f}" if r.share else f" ± {r.spread:.2g}") if r.spread else ""
    return value + spread + (" %" if r.share else "")


def differences(runs: list[Files]) -> str:
    """The fields of the configs in which runs differ.

    Raises:
      Empty: if there is one run alone, or no difference.
    """
    if len(runs) == 1:
        raise Empty("There is one run alone: name others behind it to compare them.")
    flat = [_flat(run.config.to_dict(), "") for run in runs]
    fields = dict.fromkeys(field for f in flat for field in f)
    rows = [(field, *(_shown(f, field) for f in flat)) for field in fields]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        raise Empty("The configs are equal.")
    return page.table(("field", *(run.name for run in runs)), rows)


def _flat(config: dict[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _shown(flat: dict[str, Any], field: str) -> str:
    return json.dumps(flat[field]) if field in flat else "absent"


def records(runs: list[Files]) -> str:
    """Config and results of each run as they are stored, folded away."""
    parts = []
    for run in runs:
        parts.append(page.details(f"Config of {run.name}", json.dumps(run.config.to_dict(), indent=2)))
        if run.results:
            kept = {k: v for k, v in run.results.items() if k != "config"}
            parts.append(page.details(f"Results of {run.name}", json.dumps(kept, indent=2)))
    return "".join(parts)
