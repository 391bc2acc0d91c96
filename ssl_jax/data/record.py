"""What tells the images of one run from others: enough to notice that they changed, and small enough for JSON."""

import hashlib
import json
from typing import Any

import numpy as np

from ssl_jax.data.dataset import Dataset

# Key of a record to what it is called.
_WORDS = {
    "images": "training images",
    "shape": "height, width and channels",
    "classes": "classes",
    "labels": "labels",
    "fields": "fields beside the images",
    "content": "content of the images",
}


def record(train: Dataset) -> dict[str, Any]:
    """Describes the training images of a run, as JSON gives it back.

    Streamed images are told apart by their names and sizes, so that none is opened; those in memory by their pixels,
    unless their source names them otherwise (`Dataset.content`).

    Args:
      train: the training split, all of it.
    """
    fields = {
        name: _digest(values) if isinstance(values, np.ndarray) else len(values)
        for name, values in sorted(train.fields.items())
    }
    found = {
        "name": train.name,
        "images": len(train),
        "shape": train.image_shape,
        "classes": len(train.classes),
        "labels": _digest(train.labels),
        "fields": fields,
        "content": content(train),
    }
    return json.loads(json.dumps(found))


def content(d: Dataset) -> str:
    """A digest that changes with the images of a data set or their order."""
    if d.content:
        return d.content
    if d.streamed:
        return of_names([(d.images.files.name(row), 0, 0) for row in d.images.rows.tolist()])
    return _digest(d.images)


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What differs between two records, in words; what an earlier version did not record counts as the same.

    Args:
      there: the stored one.
      here: that of this start.
    """
    found = []
    for key, words in _WORDS.items():
        old, new = there.get(key, here[key]), here[key]
        if old != new:
            plain = key in ("images", "shape", "classes")
            found.append(f"{words}: {_text(old)} then, {_text(new)} now" if plain else f"other {words}")
    return found


def of_names(names: list[tuple[str, int, int]]) -> str:
    """A digest of the name below the source, the size in bytes and the label of each image, in order."""
    digest = hashlib.sha256()
    for name, size, label in names:
        digest.update(f"{name}\0{size}\0{label}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _digest(values: np.ndarray) -> str:
    array = np.ascontiguousarray(values)
    digest = hashlib.sha256(f"{array.shape}{array.dtype}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]


def _text(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)
