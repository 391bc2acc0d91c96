"""Results of earlier versions, which had no part `measures`: what a number is stands in its name alone."""

from collections.abc import Mapping
from typing import Any

# What a number is of, where it is not the pretrained backbone; as a suffix of the name, or its last part.
_VARIANTS = ("untrained", "pixels", "pca", "supervised", "baseline")
_SPREADS = ("_std", "_ci95")
_SHARES = ("top1", "top5", "accuracy", "nmi", "map", "recall", "precision", "prototypes", "logistic", "purity")
_NOT_MEASURES = ("step", "epoch", "seed", "evaluation_seconds")


def numbers(values: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Flat name to the fields of a `results.Result`: measure, value, of, kind, and spread and chance where known.

    Args:
      values: numbers of a results.json by flat name.
    """
    spreads = {name: next((s for s in _spread_names(name) if s in values), "") for name in values}
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name in _NOT_MEASURES or name in spreads.values():
            continue
        measure, of = _split(name)
        if of == "baseline":
            continue
        fields = {"measure": measure, "value": value, "of": of, "kind": "share" if _share(measure) else "value"}
        if spreads[name]:
            fields["spread"] = values[spreads[name]]
        if f"{measure}_baseline" in values:
            fields["chance"] = values[f"{measure}_baseline"]
        found[name] = fields
    return found


def _share(measure: str) -> bool:
    last = measure.split("/")[-1]
    plain = last.split("@")[0].removeprefix("knn_").removeprefix("held_out_")
    return measure.startswith("few_label/") or plain in _SHARES or "accuracy" in last


def _spread_names(name: str) -> list[str]:
    """What the spread of a number may be called: of '1/pixels' '1/pixels_std', of 'x_untrained' 'x_std_untrained'."""
    ends = [""] + [f"_{variant}" for variant in _VARIANTS if name.endswith(f"_{variant}")]
    return [name.removesuffix(end) + spread + end for end in ends for spread in _SPREADS]


def _split(name: str) -> tuple[str, str]:
    """'knn/top1_untrained' is 'knn/top1' of 'untrained'; 'few_label/5/pixels' is 'few_label/5' of 'pixels'."""
    row, _, last = name.rpartition("/")
    if row and last in (*_VARIANTS, "pretrained"):
        return row, last
    for variant in _VARIANTS:
        if name.endswith(f"_{variant}"):
            return name.removesuffix(f"_{variant}"), variant
    return name, "pretrained"
