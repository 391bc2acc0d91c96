"""Which image files belong to a split, and which class they are of: their folders say."""

import collections
import dataclasses
import logging
import pathlib
import re

import numpy as np

from ssl_jax.data import label_table
from ssl_jax.data.dataset import Request
from ssl_jax.data.files import ARRAYS, EXTENSIONS, HEIC_HINT, Entry, is_address, printable
from ssl_jax.runtime.errors import UserError

# What a folder of a split may be called, in any case.
_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
    "unlabeled": ("unlabeled", "unlabelled", "unsupervised", "extra"),
}
_SPLIT = {name: split for split, names in _NAMES.items() for name in names}
_PLAIN = ("train", "test", "val")
# What may stand around such a name: train2017, test_images, trainset, ILSVRC2012_img_val.
_AROUND = re.compile(r"[\W\d_]+|images?|imgs?|pictures?|photos?|data|set|split|coco|ilsvrc")

log = logging.getLogger("ssl_jax")


def unwrap(names: list[str]) -> list[str]:
    """Drops a single folder around everything in an archive, unless it is a split."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if len(tops) != 1 or tops & set(_PLAIN) or any("/" not in name for name in names):
        return names
    return [name.partition("/")[2] for name in names]


def split_folders(entries: list[Entry]) -> dict[str, str]:
    """Finds the folders of the splits: at the top, or below folders that each wrap everything.

    Names count in any case, and synonyms where one of them is that of the training images; with more around them where
    another one is that of a split to measure on.

    Args:
      entries: all image files.

    Returns:
      folder with a slash at its end to "train", "val", "test" or "unlabeled"; empty where there are none.
    """
    names, around = [entry.name for entry in entries], ""
    while True:
        tops = {name.partition("/")[0] for name in names if "/" in name}
        found = {top: _SPLIT[top.lower()] for top in sorted(tops) if top.lower() in _SPLIT}
        if "train" in found.values():
            return {f"{around}{top}/": split for top, split in found.items()}
        loose = {top: _SPLIT[name] for top in sorted(tops) if (name := _AROUND.sub("", top.lower())) in _SPLIT}
        if "train" in loose.values() and {"test", "val"} & set(loose.values()):
            return {f"{around}{top}/": split for top, split in loose.items()}
        if not around and (plain := {f"{top}/": top for top in sorted(tops) if top in _PLAIN}):
            return plain
        if len(tops) != 1 or any("/" not in name for name in names):
            return {}
        around += f"{tops.pop()}/"
        names = [name.partition("/")[2] for name in names]


def check(entries: list[Entry], odd: list[str], path: str) -> None:
    """Refuses a folder or archive without images.

    Args:
      entries: all image files.
      odd: what else was found, a sentence each.
      path: the folder or archive.

    Raises:
      UserError: says what was looked for, and what was found instead.
    """
    if not entries:
        place = path if is_address(path) else pathlib.Path(path).expanduser().absolute()
        found = f" Found: {'; '.join(odd)}." if odd else HEIC_HINT
        raise UserError(f"There are no images in {place}: looked for {' '.join((*EXTENSIONS, *ARRAYS))}.{found}")


def by_split(entries: list[Entry]) -> dict[str, list[tuple[str, Entry]]]:
    """Returns split -> (name below the split, entry). Unlabelled images are training images of no class."""
    folders = split_folders(entries)
    if not folders:
        return {"train": [(entry.name, entry) for entry in entries]}
    found: dict[str, list[tuple[str, Entry]]] = {}
    for entry in entries:
        folder = next((folder for folder in folders if entry.name.startswith(folder)), None)
        if folder is not None:
            found.setdefault(folders[folder], []).append((entry.name.removeprefix(folder), entry))
    validation = found.pop("val", [])
    loose = [(rest.replace("/", "-"), entry) for rest, entry in found.pop("unlabeled", [])]
    found["train"] = found.get("train", []) + loose
    return {"test": validation} | found


def report(entries: list[Entry], odd: list[str], path: str, table: bool = False) -> None:
    """Says in at most four lines what in a folder or archive is not as its user may think.

    Args:
      entries: all image files.
      odd: what else was found, a sentence each.
      path: the folder or archive.
      table: whether labels come from one, so that folders are no classes.
    """
    folders, said = split_folders(entries), list(odd)
    beside = collections.Counter(
        entry.name.rpartition("/")[0] for entry in entries if not entry.name.startswith(tuple(folders) or ("",))
    )
    if beside:
        names = ", ".join(f"{name or '.'}/ ({count})" for name, count in beside.most_common(3))
        said.append(
            f"left out {beside.total()} images beside the splits {', '.join(folders)}: {names}"
            f"{', ...' if len(beside) > 3 else ''}; move them into a split to use them"
        )
    shared = collections.Counter(folders.values())
    if several := [folder for folder, split in folders.items() if shared[split] > 1 and split != "unlabeled"]:
        said.append(f"{', '.join(several)} are taken together, since they are names of one split")
    nested = [entry.name for items in by_split(entries).values() for rest, entry in items if rest.count("/") > 1]
    if nested and not table:
        said.append(
            f"{len(nested)} images lie in folders below that of their class, such as {nested[0]}; the first folder of "
            "a split is the class"
        )
    for sentence in [*said[:3], "; ".join(said[3:])] if len(said) > 4 else said:
        log.warning("%s: %s", path, sentence)


def select(entries: list[Entry], request: Request, path: str) -> tuple[list[Entry], tuple[str, ...]]:
    """Returns the labelled entries of a split in their final order, and the names of the classes."""
    table = label_table.labels(request.labels, entries)[0] if request.labels else None
    found, split = by_split(entries), request.split
    if not found.get(split):
        raise UserError(f"{path} has no {split} images: put them in its folder {split}/.")
    classes = {name: {_class(*item, table) for item in found.get(name, [])} - {""} for name in ("train", "test")}
    known = classes["train"] or classes["test"]
    if strangers := classes[split] - known:
        raise UserError(f"{path} has a test class that train/ lacks: '{min(strangers)}'.")
    label = {name: index for index, name in enumerate(sorted(known))}
    chosen = sorted(
        ((label.get(_class(rest, entry, table), -1), rest, entry) for rest, entry in found[split]),
        key=lambda item: item[:2],
    )
    if request.per_class is not None:
        labels = np.array([index for index, _, _ in chosen])
        chosen = [chosen[row] for row in first_per_class(labels, request.per_class, path)]
    labelled = [dataclasses.replace(entry, label=index) for index, _, entry in chosen]
    return labelled, tuple(map(printable, sorted(known)))


def _class(rest: str, entry: Entry, table: dict[str, str] | None) -> str:
    """What a table says of an image, or where there is none its folder; "": nothing."""
    if table is not None:
        return table.get(entry.name, "")
    folder, slash, _ = rest.partition("/")
    return folder if slash else ""


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
