"""Source "folder": images below a folder or an address, or in tar or zip archives."""

import dataclasses
import functools
import hashlib
import os
import pathlib

import numpy as np

from ssl_jax.data import label_table, look, pixels, places, record
from ssl_jax.data.cache import cached, remembered
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.data.decode import decode_all
from ssl_jax.data.files import Entry, Reader, is_address, retry
from ssl_jax.data.labels import by_split, check, report, select, split_folders
from ssl_jax.data.lazy import Files, FolderFiles, Images, TarFiles
from ssl_jax.data.places import opened
from ssl_jax.data.tars import Archive, Shards
from ssl_jax.runtime.errors import UserError

CARD = Card(origin="the user's own images")


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Returns the splits of a folder or archive: "train", "test" or both.

    Args:
      where: a folder, or a .tar, .tar.gz, .tgz or .zip file.
      path: the same, where `where` is empty.

    Raises:
      UserError: there is nothing there, or no image in it.
    """
    place = _place(where, path)
    with opened(place) as files:
        check(files.entries, files.odd, place)
        found = by_split(files.entries)
    return tuple(split for split in ("train", "test") if found.get(split))


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads one split of a folder or archive of images.

    Folders `train/` and `test/` (or `val/`) are the splits, under these names or the usual other ones, at the top or
    below folders around everything; without them everything is training data. The first level below is the class, and
    names in sorted order give the labels; images that lie directly in the split have label -1. Images come in the order
    of class, then file name. Unreadable ones are left out, with one warning, and so is what lies beside the splits.

    Args:
      where: as for `splits`.
      path: as for `splits`.
      request: which split, how large, and where decoded images are cached.

    Raises:
      UserError: nothing there, no such split, a test class that training lacks, images of several sizes
        without `size`, more memory than `max_gib`, or no readable image.
    """
    place = _place(where, path)
    with opened(place, request.cache) as files:
        _report(files, request, place)
        request = _looked(files, request, place)

        def make() -> tuple[Dataset, list[str]]:
            entries, classes = select(_images(files, request), request, place)
            items, pages = files.read(entries), [entry.page for entry in entries]
            images, rows, skipped = decode_all(items, len(entries), request, place, pages)
            labels = np.array([entry.label for entry in entries], np.int32)[rows]
            return Dataset(place, images, labels, classes), skipped

        # Folders whose names once were no splits: what was decoded then had other images.
        folders = sorted(set(split_folders(files.entries)) - {"train/", "val/", "test/"})
        identity = [files.identity(), folders] if folders else files.identity()
        if request.labels:
            identity = [identity, label_table.labels(request.labels, files.entries)[0]]
        found = cached(identity, request, place, make)
        content = _content(select(_images(files, request), request, place)[0], request)
    height, width, channels = found.image_shape
    card = dataclasses.replace(
        CARD, side=height if height == width else None, channels=channels, classes=len(found.classes)
    )
    return dataclasses.replace(found, name=f"folder:{place}", card=card, content=content, span=request.span)


def listing(where: str, path: str | None, request: Request) -> Dataset:
    """Lists one split of a folder or archive in the order of `load`, without opening any image.

    Args:
      where: a folder of images or of .tar files, or a .tar or .zip file; a
        compressed .tar can only be read forwards.
      path: as for `splits`.
      request: which split, and where the index of a .tar file is kept.

    Raises:
      UserError: as for `load`, or the archive is compressed.
    """
    place = _place(where, path)
    entries, classes, request = _entries(place, request)
    labels = np.array([entry.label for entry in entries], np.int32)
    content = hashlib.sha256(repr([dataclasses.astuple(entry) for entry in entries]).encode()).hexdigest()
    pages = np.array([entry.page for entry in entries]) if request.pages == "all" else None
    images = Images(_files(place, entries), np.arange(len(entries)), request.size, content, request.reading, pages)
    card = dataclasses.replace(CARD, side=request.size, channels=images.channels, classes=len(classes))
    return Dataset(
        f"folder:{place}",
        images,
        labels,
        classes,
        card=card,
        content=_content(entries, request),
        span=request.span,
    )


def _content(entries: list[Entry], request: Request) -> str:
    """A digest of the images' names and sizes; a range that was chosen for them changes what they are."""
    named = [f"{entry.name}#{entry.page}" if entry.page else entry.name for entry in entries]
    names = record.of_names([(name, e.bytes, e.label) for name, e in zip(named, entries, strict=True)])
    return f"{names} {request.span}" if request.span else names


def _place(where: str, path: str | None) -> str:
    if not (place := where or path or ""):
        raise UserError("Source 'folder' has no place: write folder:PATH or set --config.data.path=PATH.")
    return place


def _entries(place: str, request: Request) -> tuple[list[Entry], tuple[str, ...], Request]:
    """Returns the entries of a split, which say where they lie, the names of the classes, and the whole request."""
    with opened(place, request.cache) as files:
        if isinstance(files, Archive) and files.file.suffix != ".tar":
            raise UserError(f"{files.file} is compressed, so that images cannot be read in any order: gunzip it.")
        found = Shards([files.file], files.file.parent, request.cache) if isinstance(files, Archive) else files
        _report(found, request, place)
        return *select(_images(found, request), request, place), _looked(found, request, place)


def _looked(files: places.Files, request: Request, place: str) -> Request:
    """The whole request, after a look at the training images; says what is not used of them."""
    found = by_split(files.entries)
    entries = [entry for _, entry in found.get("train") or next(iter(found.values()))]

    def make() -> dict[str, np.ndarray]:
        return look.look(_readers(files, entries), request).stored()

    # An archive may have to be unpacked up to the last of them.
    key = ["look", *files.identity(), request.channels, request.pages] if isinstance(files, Archive) else None
    stored = remembered(key, request.cache, make) if key else make()
    return look.known(look.read_back(stored), request, place)


def _images(files: places.Files, request: Request) -> list[Entry]:
    """The files, or all pages and frames of them; these are counted once, since that opens all files."""
    if request.pages != "all":
        return files.entries

    def make() -> dict[str, np.ndarray]:
        counts = [_pages_of(read, request) for read in _readers(files, files.entries)]
        return {"pages": np.array(counts, np.int64)}

    counts = remembered(["pages", files.identity(), request.channels], request.cache, make)["pages"].tolist()
    pairs = zip(files.entries, counts, strict=True)
    return [dataclasses.replace(entry, page=page) for entry, count in pairs for page in range(count)]


def _pages_of(read: Reader, request: Request) -> int:
    try:
        return pixels.pages(read(), request.reading)
    except UserError:
        raise
    except Exception:  # damaged, which decoding says
        return 1


def _readers(files: places.Files, entries: list[Entry]) -> list[Reader]:
    return [functools.partial(_bytes, files, entry) for entry in entries]


def _bytes(files: places.Files, entry: Entry) -> bytes:
    ((_, name, read),) = files.read([entry])
    return retry(read, name)


def _report(files: places.Files, request: Request, place: str) -> None:
    check(files.entries, files.odd, place)
    if request.split == "train":
        said = label_table.labels(request.labels, files.entries)[1] if request.labels else []
        report(files.entries, [*files.odd, *said], place, bool(request.labels))


def _files(place: str, entries: list[Entry]) -> Files:
    # Arrays and not lists of strings, since each worker holds a copy.
    names = np.array([os.fsencode(entry.name) for entry in entries])
    if not entries[0].file:
        return FolderFiles(place if is_address(place) else str(pathlib.Path(place).expanduser()), names)
    tars = {file: number for number, file in enumerate(sorted({entry.file for entry in entries}))}
    places = np.array([(tars[entry.file], entry.offset, entry.bytes) for entry in entries], np.int64)
    return TarFiles(tuple(tars), names, places)
