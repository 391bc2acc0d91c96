"""The examples of a data set that TensorFlow Datasets has prepared: which of their features are images and labels."""

import dataclasses
import io
import pathlib
import sys
from typing import Any

import numpy as np
import tqdm

from ssl_jax.data.dataset import Request
from ssl_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a split, images left encoded."""

    source: Any  # tfds's data source
    image: str  # feature that has the images
    label: str | None  # and that has the labels
    classes: tuple[str, ...]  # their names

    def __len__(self) -> int:
        return len(self.source)

    def read(self, row: int) -> bytes:
        """The image of an example as a file; an array is one of .npy."""
        value = self.source[int(row)][self.image]
        if isinstance(value, bytes):
            return value
        if not isinstance(value, np.ndarray) or value.dtype == object:
            return bytes(value)
        stream = io.BytesIO()
        np.save(stream, value, allow_pickle=False)
        return stream.getvalue()

    def labels(self) -> np.ndarray:
        """Labels int32 [N], -1 where there are none."""
        if self.label is None:
            return np.full(len(self), -1, np.int32)
        rows = tqdm.trange(len(self), desc="labels", unit="img", disable=not sys.stderr.isatty())
        return np.array([self.source[row][self.label] for row in rows], np.int32)


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """Images of a prepared tfds data set."""

    examples: "Examples"
    rows: np.ndarray  # int [N], of the examples

    def read(self, row: int) -> bytes:
        return self.examples.read(int(self.rows[row]))

    def name(self, row: int) -> str:
        return f"example {self.rows[row]}"

    def __len__(self) -> int:
        return len(self.rows)


def examples(place: pathlib.Path, split: str, request: Request) -> Examples:
    """The examples of a split, with the features that are meant.

    Args:
      place: folder of a version of the data set.
      split: its own name of it.
      request: `image` and `label` name features; None: the only one, or the one of that name.

    Raises:
      UserError: the package is missing, or there are several features, or none that is named.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"Reading {place} needs tensorflow_datasets ({error}): pip install -e .[tfds].") from error
    # From its folder: by name, tfds would try to download and prepare what it lacks.
    builder = tfds.builder_from_directory(place)
    features = dict(builder.info.features.items())
    encoded = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    arrays = [key for key, f in features.items() if len(getattr(f, "shape", None) or ()) == 3 and key not in encoded]
    image = _meant(request.image, "image", encoded or arrays, [*encoded, *arrays], place)
    if image is None:
        raise UserError(f"The data set in {place} has no image feature, only {', '.join(features)}.")
    named = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    label = None if request.label == "none" else _meant(request.label, "label", named, named, place)
    decoders = {key: tfds.decode.SkipDecoding() for key in encoded}
    source = builder.as_data_source(split, decoders=decoders)
    return Examples(source, image, label, () if label is None else tuple(features[label].names))


def _meant(given: str | None, kind: str, found: list[str], possible: list[str], place: pathlib.Path) -> str | None:
    """The feature that is meant: the one that is given, that of the usual name, or the only one; None without any.

    Args:
      given: `data.image` or `data.label`.
      kind: 'image' or 'label', which are the usual names.
      found: the features that it may be unsaid.
      possible: and those that it may be if it is said.
      place: of the data set, for the message.
    """
    if given is not None:
        if given not in possible:
            raise UserError(
                f"config.data.{kind} is '{given}', and the data set in {place} has no such {kind} feature, only "
                f"{', '.join(possible) or 'none'}."
            )
        return given
    if kind in found:
        return kind
    if len(found) > 1:
        raise UserError(
            f"The data set in {place} has several {kind} features ({', '.join(found)}) and none is called '{kind}': "
            f"choose one with --config.data.{kind}={found[0]}."
        )
    return found[0] if found else None
