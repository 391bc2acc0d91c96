"""What was decoded or listed once is kept on disk for the next start."""

from collections.abc import Callable
import contextlib
import hashlib
import json
import logging
import os
import re
import time
from typing import Any, TypeVar
import zipfile
import zlib

import numpy as np

from ssl_jax.data.dataset import Dataset, Request, check_memory
from ssl_jax.data.reading import AS_IS
from ssl_jax.runtime.files import replacing
from ssl_jax.runtime.paths import cache_folder

CACHE_VERSION = 2  # raise it when the decoded pixels or the layout of the cache file change
MOST_GIB = 32.0  # of the cache; what was not used for longest goes first
_NAME = re.compile(r"[0-9a-f]{32}\.npz")
Found = TypeVar("Found")
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
    file = _File(key, request.cache, f"the decoded images of {where}")
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
    file = _File([CACHE_VERSION, identity], cache, "what is known of the files")
    found = file.read(lambda stored: {name: stored[name] for name in stored.files if name != "key"})
    if found is None:
        found = make()
        file.write(found)
    return found


class _File:
    """A file of arrays in the cache. What is damaged, or of other images, is said and made anew.

    Args:
      key: what tells it from others; JSON.
      cache: folder; see `cache_folder`.
      what: it holds, for messages.
    """

    def __init__(self, key: object, cache: str | None, what: str) -> None:
        self._key, self._what = hashlib.sha256(json.dumps(key).encode()).hexdigest(), what
        self._path = cache_folder(cache) / f"{self._key[:32]}.npz"

    def read(self, take: Callable[[Any], Found]) -> Found | None:
        """What `take` makes of the stored arrays; None where there are none that can be used (zip checks a CRC)."""
        try:
            # Opened here because np.load leaves a truncated file open.
            with self._path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                if str(stored["key"]) != self._key:
                    raise ValueError("it is of other images")
                found = take(stored)
            with contextlib.suppress(OSError):
                os.utime(self._path)  # those that are not used go first
            return found
        except (FileNotFoundError, NotADirectoryError):
            return None
        except _DAMAGE as error:
            log.warning("%s, kept in %s, cannot be used (%s) and are made anew", self._what, self._path, error)
            return None

    def write(self, arrays: dict[str, Any]) -> None:
        """Writes a file that other processes and machines may be reading or writing."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as stream:
                np.savez(stream, **arrays, key=np.array(self._key))
            self._make_room()
        except OSError as error:
            log.warning("decoded images are not cached in %s (%s)", self._path.parent, error)

    def _make_room(self) -> None:
        """Removes what was not used for longest where the cache has grown too large."""
        files = [path for path in self._path.parent.glob("*.npz") if _NAME.fullmatch(path.name) and path != self._path]
        kept = sorted(((path.stat(), path) for path in files), key=lambda pair: pair[0].st_mtime, reverse=True)
        total = self._path.stat().st_size
        for about, path in kept:
            total += about.st_size
            if total > MOST_GIB * 2**30:
                log.warning("removed %s, which was not used since %s", path, time.ctime(about.st_mtime))
                path.unlink(missing_ok=True)


def _read_cache(file: _File, max_gib: float, where: str) -> tuple[Dataset, list[str]] | None:
    """Returns what was stored, if anything."""

    def take(data: Any) -> tuple[Dataset, list[str]]:
        check_memory(tuple(data["shape"].tolist()), max_gib, where)
        dataset = Dataset(where, data["images"], data["labels"], tuple(data["classes"].tolist()))
        return dataset, data["skipped"].tolist()

    return file.read(take)


def _write_cache(file: _File, dataset: Dataset, skipped: list[str]) -> None:
    images = dataset.images
    assert isinstance(images, np.ndarray)
    arrays = {
        "shape": np.array(images.shape),
        "images": images,
        "labels": dataset.labels,
        "classes": np.array(dataset.classes, np.str_),
        "skipped": np.array(skipped, np.str_),
    }
    file.write(arrays)
