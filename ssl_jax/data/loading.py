"""Finds a source by its name, and loads a split of it."""

import functools
import importlib
import pathlib
import re
from typing import Any, cast

from ssl_jax.data import sources
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.data.look import tupled
from ssl_jax.data.reading import MOST_PIXELS
from ssl_jax.data.sources import Source
from ssl_jax.runtime.errors import UserError, nearest


@functools.cache
def names() -> tuple[str, ...]:
    """Names of all sources that the package has: the files in the folder `sources`."""
    files = pathlib.Path(sources.__file__).parent.glob("*.py")
    return tuple(sorted(file.stem for file in files if file.stem != "__init__"))


def load(
    source: str,
    split: str,
    *,
    path: str | None = None,
    size: int | None = None,
    per_class: int | None = None,
    max_gib: float = 8.0,
    cache: str | None = None,
    stream: bool = False,
    range: Any = None,
    channels: tuple[int, ...] | None = None,
    pages: str = "first",
    max_pixels: int = MOST_PIXELS,
    image: str | None = None,
    label: str | None = None,
    labels: str | None = None,
) -> Dataset:
    """Loads one split of a source into memory, or lists it so that its images can be streamed.

    Args:
      source: NAME or NAME:PLACE, where NAME is a file in `sources`, such as "digits", "folder:PATH" or
        "tfds:NAME"; or the dotted path of a module of your own that has what `sources.Source` says.
      split: "train" or "test"; `splits` says which of them a source has.
      path: where the files lie, for sources that read files.
      size: side of the square images in pixels: the short side is resized to it (bicubic, antialiased) and
        the centre cropped. None keeps the images as they are, which must then have one size.
      per_class: keep only the first n training images of each class, in file-name order; the test split is
        not touched.
      max_gib: the largest array of images to make, in GiB.
      cache: folder for downloads and decoded images; None is $SSL_JAX_CACHE or ~/.cache/ssl_jax.
      stream: leave the images where they are; they may then differ in size.
      range: the values that become 0 and 255, of images of more than eight bits a pixel; None: as the images say.
      channels: numbers of the channels that are meant, from 0, in order; None: grey or colour, as the images are.
      pages: "first" page or frame of an image; "all", each an image of its own; "channels": those of a TIFF are these.
      max_pixels: an image of more counts as unreadable.
      image: name of the feature that has the images, in a source that has several; None: the only one, or "image".
      label: name of the feature that has the labels, likewise; None: "label".
      labels: a CSV file of the names of image files and their labels; None: folders are classes.

    Raises:
      UserError: the source is unknown, absent, empty or too large, lacks the split, or cannot be streamed.
    """
    module, where = find(source)
    if labels is not None and source.partition(":")[0] != "folder":
        raise UserError(f"config.data.labels is for the images of a folder, and {source} has its own: leave it unset.")
    few = per_class if split == "train" else None
    chosen = None if channels is None else tuple(channels)
    request = Request(split, size, few, max_gib, cache, tupled(range), chosen, pages, max_pixels, image, label, labels)
    if not stream:
        found = module.load(where, path, request)
        if chosen is not None and found.image_shape[-1] != len(chosen):
            raise UserError(f"{source} has no channels to choose from: leave --config.data.channels unset.")
        return found
    if not streams(source):
        kind = source.partition(":")[0]
        raise UserError(f"{kind} is small and comes as one file: leave --config.data.stream at 'auto' or 'never'.")
    return module.listing(where, path, request)


def splits(source: str, path: str | None = None) -> tuple[str, ...]:
    """Returns the splits that `load` can give for a source: "train", "test" or both, in that order.

    Args:
      source: as for `load`.
      path: as for `load`.

    Raises:
      UserError: the source is unknown or absent.
    """
    module, where = find(source)
    return module.splits(where, path)


def streams(source: str) -> bool:
    """Whether the images of a source can be streamed: they lie in files of their own.

    Raises:
      UserError: the source is unknown.
    """
    return hasattr(find(source)[0], "listing")


def takes_path(source: str) -> bool:
    """Whether a path may say where the images of a source lie; they may come with a package, or its name says it.

    Raises:
      UserError: the source is unknown.
    """
    return not getattr(find(source)[0], "BUNDLED", False) and not re.match("folder:.", source)


def card(source: str) -> Card:
    """Returns the facts of a source, which need not be on this machine.

    Raises:
      UserError: the source is unknown.
    """
    module, where = find(source)
    return getattr(module, "CARDS", {}).get(where, module.CARD)


def find(source: str) -> tuple[Source, str]:
    """Returns the module of a source "NAME:PLACE", and the place.

    Raises:
      UserError: there is no such source, naming the nearest.
    """
    name, _, where = source.partition(":")
    path = f"{sources.__name__}.{name}" if name in names() else name
    if name not in names() and ("." not in name or "/" in name):
        there = "://" in source or pathlib.Path(source).expanduser().exists()
        hint = f"A folder or an archive is named folder:{source}." if there else nearest(name, names())
        raise UserError(f"There is no data source '{name}'. {hint}")
    try:
        return cast(Source, importlib.import_module(path)), where
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise  # the module is there, but something that it imports is not
        raise UserError(
            f"There is no data source '{name}': no module of that dotted path can be imported ({error}). Put its "
            "folder on PYTHONPATH, or install it."
        ) from error
