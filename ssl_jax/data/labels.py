"""Which image files belong to a split, and which class they are of: their folders say."""

import dataclasses
import pathlib

import numpy as np

from ssl_jax.data.dataset import Request
from ssl_jax.data.files import EXTENSIONS, Entry, is_address
from ssl_jax.runtime.errors import UserError


def unwrap(names: list[str]) -> list[str]:
    """Drops a single folder around everything in an archive, unless it is a split."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if len(tops) != 1 or tops & {"train", "test", "val"} or any("/" not in name for name in names):
        return names
    return [name.partition("/")[2] for name in names]


def by_split(entries: list[Entry], path: str) -> dict[str, list[tuple[str, Entry]]]:
    """Returns split -> (name below the split, entry)."""
    if not entries:
        place = path if is_address(path) else pathlib.Path(path).expanduser().absolute()
        raise UserError(f"There are no images in {place}: looked for {' '.join(EXTENSIONS)}.")
    found: dict[str, list[tuple[str, Entry]]] = {}
    for entry in entries:
        top, slash, rest = entry.name.partition("/")
        if slash and top in ("train", "test", "val"):
            found.setdefault(top, []).append((rest, entry))
    if not found:
        return {"train": [(entry.name, entry) for entry in entries]}
    validation = found.pop("val", [])
    return {"test": validation} | found


def select(entries: list[Entry], request: Request, path: str) -> tuple[list[Entry], tuple[str, ...]]:
    """Returns the labelled entries of a split in their final order, and the names of the classes."""
    found, split = by_split(entries, path), request.split
    if not found.get(split):
        raise UserError(f"{path} has no {split} images: put them in its folder {split}/.")
    classes = {name: _classes(found.get(name, [])) for name in ("train", "test")}
    known = classes["train"] or classes["test"]
    if strangers := classes[split] - known:
        raise UserError(f"{path} has a test class that train/ lacks: '{min(strangers)}'.")
    label = {name: index for index, name in enumerate(sorted(known))}
    chosen = sorted(
        ((label.get(_class(rest), -1), rest, entry) for rest, entry in found[split]),
        key=lambda item: item[:2],
    )
    if request.per_class is not None:
        labels = np.array([index for index, _, _ in chosen])
        chosen = [chosen[row] for row in first_per_class(labels, request.per_class, path)]
    labelled = [dataclasses.replace(entry, label=index) for index, _, entry in chosen]
    return labelled, tuple(sorted(known))


def _class(rest: str) -> str:
    folder, slash, _ = rest.partition("/")
    return folder if slash else ""


def _classes(items: list[tuple[str, Entry]]) -> set[str]:
    return {_class(rest) for rest, _ in items} - {""}


def first_per_class(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Returns the rows of the first `count` images of each class, in their order; -1 is no class.

    Args:
      labels: int `[N]`.
      count: how many of each class.
      where: the source, for the message.

    Raises:
      UserError: no image has a class.
    """
    if not np.any(labels >= 0):
        raise UserError(
            f"The images of {where} have no classes: leave --config.data.per_class unset, or sort them into "
            "class folders."
        )
    rows = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels) if label >= 0]
    return np.sort(np.concatenate(rows))
