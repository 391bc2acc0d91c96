"""What was decoded or listed once is kept on disk for the next start."""

from collections.abc import Callable
import hashlib
import json
import logging
import pathlib
from typing import Any
import zipfile
import zlib

import numpy as np

from ssl_jax.data.dataset import Dataset, Request, check_memory
from ssl_jax.data.pixels import AS_IS
from ssl_jax.runtime.files import replacing
from ssl_jax.runtime.paths import cache_folder

CACHE_VERSION = 1  # raise it when the decoded pixels or the layout of the cache file change
_DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)  # what reading a .npz raises

log = logging.getLogger("ssl_jax")


def cached(identity: object, request: Request, where: str, make: Callable[[], tuple[Dataset, list[str]]]) -> Dataset:
    """Returns what `make` gave for the same files and request before, or makes and stores it.

    Args:
      identity: what changes when the files do; JSON.
      request: what is wanted of them.
      where: the source, for messages.
      make: gives the data set and the names of unreadable images, which are reported either way.

    Raises:
      UserError: the stored images exceed `max_gib`, or what `make` raises.
    """
    key = [CACHE_VERSION, identity, request.split, request.size, request.per_class]
    if (reading := request.reading) != AS_IS or request.pages != "first":
        key += [reading.channels, reading.span, reading.max_pixels, request.pages]
    file = _cache_file(key, request.cache)
    stored = _read_cache(file, request.max_gib, where)
    if stored is None:
        stored = make()
        _write_cache(file, *stored)
    dataset, skipped = stored
    if skipped:
        named = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        log.warning("left out %d unreadable images of %s: %s", len(skipped), where, named)
    return dataset


def remembered(identity: object, cache: str | None, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the arrays that `make` gave for the same files before, or makes and stores them.

    Args:
      identity: what changes when the files do; JSON.
      cache: folder to keep them in; see `cache_folder`.
      make: gives the arrays, by name.
    """
    file = _cache_file([CACHE_VERSION, identity], cache)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return dict(stored)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except _DAMAGE as error:
        log.info("rebuilding the damaged cache file %s (%s)", file, error)
    arrays = make()
    _write_arrays(file, arrays)
    return arrays


def _cache_file(key: object, cache: str | None) -> pathlib.Path:
    return cache_folder(cache) / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.npz"


def _read_cache(file: pathlib.Path, max_gib: float, where: str) -> tuple[Dataset, list[str]] | None:
    """Returns what was stored, or None where there is nothing or it is damaged (zip checks a CRC)."""
    try:
        # Opened here because np.load leaves a truncated file open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            check_memory(tuple(data["shape"].tolist()), max_gib, where)
            dataset = Dataset(where, data["images"], data["labels"], tuple(data["classes"].tolist()))
            return dataset, data["skipped"].tolist()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _DAMAGE as error:
        log.info("rebuilding the damaged cache file %s (%s)", file, error)
        return None


def _write_cache(file: pathlib.Path, dataset: Dataset, skipped: list[str]) -> None:
    images = dataset.images
    assert isinstance(images, np.ndarray)
    arrays = {
        "shape": np.array(images.shape),
        "images": images,
        "labels": dataset.labels,
        "classes": np.array(dataset.classes, np.str_),
        "skipped": np.array(skipped, np.str_),
    }
    _write_arrays(file, arrays)


def _write_arrays(file: pathlib.Path, arrays: dict[str, Any]) -> None:
    """Writes a file that other processes and machines may be reading or writing."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as stream:
            np.savez(stream, **arrays)
    except OSError as error:
        log.warning("decoded images are not cached in %s (%s)", file.parent, error)
