"""Source "tfds": data sets that TensorFlow Datasets has prepared as ArrayRecord files, read without TensorFlow."""

import dataclasses
import functools
import json
import logging
import os
import pathlib
import re

import numpy as np

from ssl_jax.data import look
from ssl_jax.data.cache import cached, remembered
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.data.decode import decode_all
from ssl_jax.data.files import is_address
from ssl_jax.data.labels import first_per_class
from ssl_jax.data.lazy import Images
from ssl_jax.data.prepared import Examples, RecordFiles, examples
from ssl_jax.runtime.errors import UserError

CARD = Card(origin="prepared by TensorFlow Datasets, https://www.tensorflow.org/datasets")
CARDS = {
    "cifar100": Card(
        side=32,
        channels=3,
        classes=100,
        count=50_000,
        test_count=10_000,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        mirrors=True,
        licence="none stated",
        origin="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "imagenet2012": Card(
        channels=3,
        classes=1000,
        count=1_281_167,
        test_count=50_000,  # the validation images, since those of the test split have no labels
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        mirrors=True,
        licence="non-commercial research and education",
        origin="ILSVRC 2012, Russakovsky et al. 2015, https://www.image-net.org",
    ),
    "imagenette/full-size-v2": Card(
        channels=3,
        classes=10,
        count=9_469,
        test_count=3_925,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        mirrors=True,
        licence="Apache 2.0",
        origin="Howard 2019, https://github.com/fastai/imagenette",
    ),
}

log = logging.getLogger("ssl_jax")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads one split of a prepared data set; "test" is its test split or, where that has no labels, "validation".

    Args:
      where: as in tfds: "NAME", "NAME/CONFIG", either with ":VERSION" (the newest one otherwise).
      path: the folder of prepared data sets; None is $TFDS_DATA_DIR, then ~/tensorflow_datasets.
      request: which split, how large, and where decoded images are cached. The first `per_class` images are
        those first in the files.

    Raises:
      UserError: the package is missing, the data set is not prepared, has no such split or no images.
    """
    place, info, split = _split(where, request, path)
    name, chosen = f"tfds:{where}", [key for key in (request.image, request.label) if key]
    request = _looked(examples(place, split, request), request, name)

    def make() -> tuple[Dataset, list[str]]:
        found = examples(place, split, request)
        labels = found.labels()
        rows = np.arange(len(labels))
        if request.per_class is not None:
            rows = first_per_class(labels, request.per_class, name)
        # Read here and not in the decoding threads, for which its readers make no promise.
        items = (
            (at, f"example {row}", functools.partial(bytes, found.read(row))) for at, row in enumerate(rows.tolist())
        )
        images, kept, skipped = decode_all(items, len(rows), request, name)
        return Dataset(name, images, labels[rows[kept]], found.classes), skipped

    found = cached([str(place.resolve()), info, *chosen], request, name, make)
    card = dataclasses.replace(_card(where, found.classes), channels=found.image_shape[-1])
    return dataclasses.replace(found, name=name, card=card, content=_content(info, split), span=request.span)


def listing(where: str, path: str | None, request: Request) -> Dataset:
    """Lists one split of a prepared data set, whose images are then read one by one.

    Args:
      where: as for `load`.
      path: as for `load`.
      request: which split, and where its labels are kept: reading them goes through all examples, once.

    Raises:
      UserError: as for `load`.
    """
    place, info, split = _split(where, request, path)
    name = f"tfds:{where}"
    found = examples(place, split, request)
    request = _looked(found, request, name)

    def make() -> dict[str, np.ndarray]:
        return {"labels": found.labels()}

    key = ["labels", str(place.resolve()), info, split, *([request.label] if request.label else [])]
    labels = remembered(key, request.cache, make)["labels"] if found.classes else found.labels()
    rows = np.arange(len(labels))
    if request.per_class is not None:
        rows = first_per_class(labels, request.per_class, name)
    content = f"{info} {split} {request.image or ''}".rstrip()
    images = Images(RecordFiles(found, rows), np.arange(len(rows)), request.size, content, request.reading)
    card = dataclasses.replace(_card(where, found.classes), channels=images.channels)
    return Dataset(
        name, images, labels[rows], found.classes, card=card, content=_content(info, split), span=request.span
    )


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Returns which of "train" and "test" a prepared data set has.

    Args:
      where: as for `load`.
      path: as for `load`.

    Raises:
      UserError: the data set is not prepared.
    """
    return tuple(_splits((_find_or_explain(where, path) / "dataset_info.json").read_text()))


def _content(info: str, split: str) -> str:
    """What changes with the version of a data set and the examples in the files of a split."""
    stored = json.loads(info)
    shards = [s.get("shardLengths") for s in stored["splits"] if s["name"] == split]
    return f"{stored.get('name')} {stored.get('version')} {split} {','.join(shards[0] or ()) if shards else ''}"


def _card(name: str, classes: tuple[str, ...]) -> Card:
    return CARDS.get(name, dataclasses.replace(CARD, classes=len(classes)))


def roots(path: str | None) -> list[pathlib.Path]:
    """Returns the folders in which prepared data sets are looked for.

    Raises:
      UserError: one is an address, which the reader of ArrayRecord files does not take.
    """
    places = [place for place in (path, os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets") if place]
    if remote := next((place for place in places if is_address(place)), None):
        raise UserError(
            f"Prepared data sets are read from disks, and {remote} is none: copy it or mount it, or stream image files "
            "from there with --config.data.source=folder:gs://BUCKET/FOLDER."
        )
    return [pathlib.Path(place).expanduser() for place in places]


def find(name: str, path: str | None = None) -> pathlib.Path | None:
    """Returns the folder of a data set's newest version in ArrayRecord format, or None.

    Args:
      name: as for `load`.
      path: as for `load`.
    """
    for root in roots(path):
        folder = root / name.replace(":", "/")
        prepared = [place for place in [folder, *folder.glob("*")] if _is_array_record(place)]
        if prepared:
            return max(prepared, key=lambda place: [int(n) for n in re.findall(r"\d+", place.name)])
    return None


def prepared_in(name: str, path: str) -> bool:
    """Whether a data set is prepared in a folder, and not in one of the usual places alone."""
    found = find(name, path)
    return found is not None and pathlib.Path(path).expanduser() in found.parents


def _split(name: str, request: Request, path: str | None) -> tuple[pathlib.Path, str, str]:
    """Returns the folder of a data set, its dataset_info.json, and its own name of the split."""
    place = _find_or_explain(name, path)
    if path and request.split == "train" and pathlib.Path(path).expanduser() not in place.parents:
        log.warning("tfds:%s is not prepared in %s: taken from %s.", name, path, place)
    info = (place / "dataset_info.json").read_text()
    found = _splits(info).get(request.split)
    if found is None:
        raise UserError(f"tfds:{name} in {place} has no {request.split} split, only {', '.join(_names(info))}.")
    # The test images of ImageNet are there with the label -1.
    labelled = (split for split in found if len(found) == 1 or _labelled(place, split, request))
    return place, info, next(labelled, found[0])


def _labelled(place: pathlib.Path, split: str, request: Request) -> bool:
    """Whether the first image of a split has a label."""
    found = examples(place, split, request)
    return found.label is not None and len(found) > 0 and int(found.source[0][found.label]) >= 0


def _looked(found: Examples, request: Request, name: str) -> Request:
    """The whole request, after a look at the images; says what is not used of them."""
    readers = [functools.partial(found.read, row) for row in range(len(found))]
    return look.known(look.look(readers, request), request, name)


def _is_array_record(folder: pathlib.Path) -> bool:
    info = folder / "dataset_info.json"
    return info.is_file() and json.loads(info.read_text()).get("fileFormat") == "array_record"


def _find_or_explain(name: str, path: str | None) -> pathlib.Path:
    if not name:
        raise UserError("Source 'tfds' has no name: write tfds:NAME, for example tfds:cifar10.")
    place = find(name, path)
    if place is None:
        looked = ", ".join(str(root / name.replace(":", "/")) for root in roots(path))
        raise UserError(
            f"tfds:{name} is not prepared as ArrayRecord (looked in {looked}): run 'tfds build {name} "
            "--file_format=array_record' where TensorFlow is installed, and set --config.data.path=... or "
            "$TFDS_DATA_DIR to the folder it writes to."
        )
    return place


def _names(info: str) -> list[str]:
    return [split["name"] for split in json.loads(info)["splits"]]


def _splits(info: str) -> dict[str, list[str]]:
    """Returns our name -> their names of the splits in a dataset_info.json, the preferred one first."""
    ours = {"train": ("train",), "test": ("test", "validation")}
    held = {name: [theirs for theirs in candidates if theirs in _names(info)] for name, candidates in ours.items()}
    return {name: theirs for name, theirs in held.items() if theirs}
