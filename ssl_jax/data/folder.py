"""Folders and tar archives of images."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import logging
import os
import pathlib
import sys
import tarfile
import time
from typing import Any
import uuid
import warnings
import zipfile
import zlib

import fsspec
import joblib
import numpy as np
from PIL import Image, ImageOps
import tqdm

from ssl_jax.data import Dataset, DoesNotFit, Request
from ssl_jax.runtime.errors import TryAgain, UserError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
ARCHIVES = (".tar", ".tar.gz", ".tgz")
CACHE_VERSION = 1  # raise it when the decoded pixels or the layout of the cache file change
GREY_16 = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)  # what reading a .npz raises
_PAUSES = (1.0, 4.0, 16.0, 64.0)  # seconds between attempts to read what cannot be read now
PROGRESS_FROM = 2000  # fewer images than this are decoded before a progress bar is of use

log = logging.getLogger("ssl_jax")

Reader = Callable[[], bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One image file: its name within the source, what identifies its content, its label, and where it lies."""

    name: str
    bytes: int
    mtime_ns: int
    label: int = -1
    file: str = ""  # the .tar file that holds it, if any
    offset: int = 0  # of its first byte in there


def splits(path: str) -> tuple[str, ...]:
    """Returns the splits of a folder or archive: "train", "test" or both.

    Args:
      path: a folder, or a .tar, .tar.gz or .tgz file.

    Raises:
      UserError: there is nothing at `path`, or no image in it.
    """
    with _open(path) as source:
        found = _by_split(source.entries, path)
    return tuple(split for split in ("train", "test") if found.get(split))


def load(path: str, request: Request) -> Dataset:
    """Loads one split of a folder or archive of images.

    Top-level folders `train/` and `test/` (or `val/`) are the splits; without them everything is training
    data. The first level below is the class, and names in sorted order give the labels; images that lie
    directly in the split have label -1. A single folder that wraps a whole archive is looked through. Images
    come in the order of class, then file name. Unreadable ones are left out, with one warning.

    Args:
      path: a folder, or a .tar, .tar.gz or .tgz file.
      request: which split, how large, and where decoded images are cached.

    Raises:
      UserError: nothing there, no such split, a test class that training lacks, images of several sizes
        without `size`, more memory than `max_gib`, or no readable image.
    """
    with _open(path, request.cache) as source:

        def make() -> tuple[Dataset, list[str]]:
            entries, classes = _select(source.entries, request, path)
            items = source.read(entries)
            images, rows, skipped = decode_all(items, len(entries), request, path)
            labels = np.array([entry.label for entry in entries], np.int32)[rows]
            return Dataset(path, images, labels, classes), skipped

        return cached(source.identity(), request, path, make)


def listing(path: str, request: Request) -> tuple[list[Entry], tuple[str, ...]]:
    """Lists one split of a folder or archive in the order of `load`, without opening any image.

    Args:
      path: a folder of images or of .tar files, or a .tar file; a compressed archive can only be read forwards.
      request: which split, and where the index of a .tar file is kept.

    Returns:
      entries, which say where they lie, and the names of the classes.

    Raises:
      UserError: as for `load`, or the archive is compressed.
    """
    with _open(path, request.cache) as source:
        if isinstance(source, _Archive) and source.file.suffix != ".tar":
            raise UserError(f"{source.file} is compressed, so that images cannot be read in any order: gunzip it.")
        found = _Shards([source.file], source.file.parent, request.cache) if isinstance(source, _Archive) else source
        entries, classes = _select(found.entries, request, path)
        return entries, classes


# --- where the files are


class _Folder:
    """The images below a folder."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.entries = sorted(self._walk(), key=lambda entry: entry.name)

    def _walk(self) -> Iterator[Entry]:
        for name in _names(self.root):
            if _is_image(name):
                with contextlib.suppress(FileNotFoundError):  # a dangling link
                    stat = (self.root / name).stat()
                    yield Entry(name, stat.st_size, stat.st_mtime_ns)

    def identity(self) -> object:
        return [
            str(self.root.resolve()),
            [(entry.name, entry.bytes, entry.mtime_ns) for entry in self.entries],
        ]

    def read(self, entries: list[Entry]) -> Iterator[tuple[int, str, Reader]]:
        for row, entry in enumerate(entries):
            yield row, entry.name, (self.root / entry.name).read_bytes


class _Bucket:
    """The images below a folder in a bucket (gs://BUCKET/FOLDER, or whatever fsspec can read), listed in one go."""

    def __init__(self, root: str):
        self.root = root
        try:
            files, place = fsspec.core.url_to_fs(root)
            found = files.find(place, detail=True)
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"{root} cannot be read ({error}): for gs:// pip install -e .[gcs] and log in.") from error
        self.entries = [
            Entry(name[len(place.rstrip("/")) + 1 :], stat["size"], self._version(stat))
            for name, stat in sorted(found.items())
            if _is_image(name[len(place.rstrip("/")) + 1 :])
        ]

    @staticmethod
    def _version(stat: dict[str, Any]) -> int:
        """A number that changes with the content; stores call it differently."""
        told = [str(stat[name]) for name in ("etag", "md5Hash", "mtime", "created") if name in stat]
        return zlib.crc32(" ".join(told).encode())

    def identity(self) -> object:
        return [self.root, [(entry.name, entry.bytes, entry.mtime_ns) for entry in self.entries]]

    def read(self, entries: list[Entry]) -> Iterator[tuple[int, str, Reader]]:
        for row, entry in enumerate(entries):
            yield row, entry.name, functools.partial(read_file, self.root, entry.name)


def read_file(root: str, name: str) -> bytes:
    """Returns the bytes of a file below a folder, or below an address such as gs://BUCKET/FOLDER."""
    if not is_address(root):
        return (pathlib.Path(root) / name).read_bytes()
    files, place = fsspec.core.url_to_fs(root)
    return files.cat_file(f"{place.rstrip('/')}/{name}")


def patiently(read: Reader, name: str) -> bytes:
    """Returns what `read` gives; what may pass, as a network drive that is away, is tried again for a while.

    Args:
      read: gives the bytes of a file.
      name: of the file, for the message.

    Raises:
      TryAgain: it cannot be read now, which is no fault of the file.
      Exception: it is not there or may not be read, or what holds it is damaged.
    """
    for pause in (*_PAUSES, None):
        try:
            return read()
        except (FileNotFoundError, PermissionError, MemoryError, ValueError, LookupError, RuntimeError):
            raise
        except Exception as error:  # stores have errors of their own
            if pause is None:
                raise TryAgain(
                    f"{name} could not be read in {len(_PAUSES) + 1} attempts ({type(error).__name__}: {error}): see "
                    "whether its disk or its network is there, and give the same command again."
                ) from error
        time.sleep(pause)
    raise AssertionError


def is_address(path: str) -> bool:
    """Whether a path is that of a bucket or the like, SCHEME://..."""
    return "://" in path


class _Shards:
    """The images in uncompressed .tar files, whose folders are merged into one tree."""

    def __init__(self, files: list[pathlib.Path], root: pathlib.Path, cache: str | None):
        self._files, self._root, self._cache = files, root, cache

    @functools.cached_property
    def entries(self) -> list[Entry]:
        found = []
        for file in self._files:
            # Those of train/x.tar belong to train/, whatever folders it has inside.
            above = file.parent.relative_to(self._root)
            for name, offset, size in _index(file, self._cache):
                found.append(Entry((above / name).as_posix(), size, 0, file=str(file), offset=offset))
        names = _unwrap([entry.name for entry in found])
        found = [dataclasses.replace(entry, name=name) for entry, name in zip(found, names, strict=True)]
        return sorted(found, key=lambda entry: (entry.name, entry.file))

    def identity(self) -> object:
        return [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in self._files]

    def read(self, entries: list[Entry]) -> Iterator[tuple[int, str, Reader]]:
        for row, entry in enumerate(entries):
            yield row, entry.name, functools.partial(read_part, entry.file, entry.offset, entry.bytes)


def _index(file: pathlib.Path, cache: str | None) -> list[tuple[str, int, int]]:
    """Name, offset and length of the images in a .tar file; listed once, since that reads all of its headers."""

    def make() -> dict[str, np.ndarray]:
        with _open_tar(file) as tar:
            found = [member for member in _members(tar, file) if _is_image(_plain(member)) and not member.issparse()]
        return {
            "names": np.array([_plain(member) for member in found], np.str_),
            "places": np.array([(member.offset_data, member.size) for member in found], np.int64).reshape(-1, 2),
        }

    stat = file.stat()
    stored = remembered(["tar", str(file.resolve()), stat.st_size, stat.st_mtime_ns], cache, make)
    places = zip(stored["names"].tolist(), stored["places"].tolist(), strict=True)
    return [(name, offset, size) for name, (offset, size) in places]


def read_part(file: str, offset: int, count: int) -> bytes:
    """Returns `count` bytes of a file from `offset` on."""
    with open(file, "rb") as stream:
        stream.seek(offset)
        return stream.read(count)


class _Archive:
    """The images in a tar file, listed when first needed."""

    def __init__(self, file: pathlib.Path, tar: tarfile.TarFile, cache: str | None):
        self.file, self.tar, self._cache = file, tar, cache

    @functools.cached_property
    def members(self) -> dict[str, tarfile.TarInfo]:
        files = {_plain(member): member for member in _members(self.tar, self.file)}
        named = {name: member for name, member in files.items() if _is_image(name)}
        return dict(zip(_unwrap(list(named)), named.values(), strict=True))

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """Kept for the next start: the headers of a compressed archive are found by unpacking all of it."""

        def make() -> dict[str, np.ndarray]:
            return {
                "names": np.array(list(self.members), np.str_),
                "bytes": np.array([member.size for member in self.members.values()], np.int64),
            }

        stored = remembered(["archive", *self.identity()], self._cache, make)
        pairs = zip(stored["names"].tolist(), stored["bytes"].tolist(), strict=True)
        return [Entry(name, size, 0) for name, size in pairs]

    def identity(self) -> list[object]:
        stat = self.file.stat()
        return [str(self.file.resolve()), stat.st_size, stat.st_mtime_ns]

    def read(self, entries: list[Entry]) -> Iterator[tuple[int, str, Reader]]:
        """Yields the files in the archive's order: a compressed tar can only be read forwards."""
        rows = sorted(range(len(entries)), key=lambda row: self.members[entries[row].name].offset)
        for row in rows:
            stream = self.tar.extractfile(self.members[entries[row].name])
            data = stream.read() if stream else b""
            yield row, entries[row].name, functools.partial(bytes, data)


def _members(tar: tarfile.TarFile, file: pathlib.Path) -> list[tarfile.TarInfo]:
    try:
        return [member for member in tar if member.isfile()]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} is damaged or incomplete ({error}): fetch it again.") from error


def _plain(member: tarfile.TarInfo) -> str:
    return pathlib.PurePosixPath(member.name).as_posix()


@contextlib.contextmanager
def _open(path: str, cache: str | None = None) -> Iterator[_Folder | _Bucket | _Shards | _Archive]:
    place = pathlib.Path(path).expanduser()
    if is_address(path):
        yield _Bucket(path)
    elif place.is_dir():
        folder = _Folder(place)
        shards = [] if folder.entries else sorted(place / name for name in _names(place) if name.endswith(".tar"))
        yield _Shards(shards, place, cache) if shards else folder
    elif place.is_file() and place.name.lower().endswith(ARCHIVES):
        with _open_tar(place) as tar:
            yield _Archive(place, tar, cache)
    elif place.exists():
        raise UserError(f"{place} is neither a folder nor a {', '.join(ARCHIVES)} file.")
    else:
        raise UserError(f"There are no images at {place.absolute()}: no such folder or archive.")


def _open_tar(file: pathlib.Path) -> tarfile.TarFile:
    try:
        return tarfile.open(file)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} is not a readable tar file ({error}): fetch it again.") from error


def _names(root: pathlib.Path) -> Iterator[str]:
    """Yields the names of all files below a folder."""
    for folder, _, files in os.walk(root, followlinks=True):
        below = pathlib.Path(folder).relative_to(root)
        yield from ((below / file).as_posix() for file in files)


def _is_image(name: str) -> bool:
    file = pathlib.PurePosixPath(name)
    return file.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in file.parts)


def _unwrap(names: list[str]) -> list[str]:
    """Drops a single folder around everything in an archive, unless it is a split."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if len(tops) != 1 or tops & {"train", "test", "val"} or any("/" not in name for name in names):
        return names
    return [name.partition("/")[2] for name in names]


# --- which files belong to a split, and with which labels


def _by_split(entries: list[Entry], path: str) -> dict[str, list[tuple[str, Entry]]]:
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


def _select(entries: list[Entry], request: Request, path: str) -> tuple[list[Entry], tuple[str, ...]]:
    """Returns the labelled entries of a split in their final order, and the names of the classes."""
    found, split = _by_split(entries, path), request.split
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


# --- decoding


def decode(data: bytes, size: int | None = None) -> np.ndarray:
    """Decodes one image file, upright as its EXIF orientation says.

    Args:
      data: the bytes of the file.
      size: side in pixels of the result; None keeps the image's own size.

    Returns:
      uint8 `[H, W, 1]` for a grey image, else `[H, W, 3]`. Transparency is dropped; 16 bits become 8.

    Raises:
      Exception: whatever Pillow meets in a damaged file.
    """
    with Image.open(io.BytesIO(data)) as opened:
        image = eight_bits(ImageOps.exif_transpose(opened))
    pixels = np.asarray(fit(image, size) if size else image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def eight_bits(image: Image.Image) -> Image.Image:
    """Brings an image to mode "L" or "RGB": transparency is dropped, 16 bits become 8.

    Raises:
      ValueError: it has floating-point pixels.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode in GREY_16:
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) / 257 + 0.5).astype(np.uint8))
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def fit(image: Image.Image, size: int) -> Image.Image:
    """Resizes the short side to `size` pixels (bicubic, antialiased) and crops the centre square."""
    width, height = image.size
    short = min(width, height)
    width, height = size * width // short, size * height // short
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def decode_all(
    items: Iterable[tuple[int, str, Reader]], count: int, request: Request, where: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Decodes images in parallel into one array.

    Args:
      items: row in the result, name, and a function that gives the bytes of the file.
      count: how many items there are.
      request: the size and the memory limit.
      where: the source, for messages.

    Returns:
      images uint8 `[M, H, W, C]` in the order of their rows, the rows int `[M]` that could be read, and the
      names of the others.

    Raises:
      UserError: several sizes without `size`, too much memory, or nothing that can be read.
    """
    images, first = np.zeros((0, 0, 0, 0), np.uint8), ""
    good, skipped = np.zeros(count, bool), {}
    for row, name, pixels in tqdm.tqdm(
        _decoded(items, request.size),
        total=count,
        desc=f"decoding {where}",
        unit="img",
        disable=count < PROGRESS_FROM or not sys.stderr.isatty(),
    ):
        if pixels is None:
            skipped[row] = name
            continue
        if not first:
            check_memory((count, *pixels.shape), request.max_gib, where)
            images, first = np.zeros((count, *pixels.shape), np.uint8), name
        if pixels.shape[:2] != images.shape[1:3]:
            raise DoesNotFit(
                f"The images of {where} differ in size ({first}: {_size(images[0])}, {name}: "
                f"{_size(pixels)}): set --config.data.size=... to resize and crop them, or --config.data.stream=auto."
            )
        if pixels.shape[2] > images.shape[3]:  # the first colour image after grey ones
            check_memory((count, *pixels.shape), request.max_gib, where)
            images = np.repeat(images, 3, axis=3)
        images[row], good[row] = pixels, True
    if not first:
        raise UserError(f"None of the {count} images in {where} can be read.")
    rows = np.flatnonzero(good)
    return images if good.all() else images[rows], rows, [skipped[row] for row in sorted(skipped)]


def _decoded(
    items: Iterable[tuple[int, str, Reader]], size: int | None
) -> Iterator[tuple[int, str, np.ndarray | None]]:
    """Decodes in threads (Pillow releases the interpreter), a bounded number of images ahead."""

    def one(item: tuple[int, str, Reader]) -> tuple[int, str, np.ndarray | None]:
        row, name, read = item
        try:
            return row, name, decode(patiently(read, name), size)
        except (MemoryError, UserError):
            raise
        except Exception:  # Pillow's readers raise anything at all on damaged files
            return row, name, None

    workers = joblib.cpu_count()
    items = iter(items)
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # Remarks on odd metadata; what cannot be read is counted and named by the caller.
        warnings.filterwarnings("ignore", module="PIL")
        while batch := list(itertools.islice(items, 32 * workers)):
            yield from pool.map(one, batch)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def check_memory(shape: tuple[int, ...], max_gib: float, where: str) -> None:
    """Raises UserError where a uint8 array of `shape` exceeds `max_gib` GiB."""
    gib = np.prod([float(n) for n in shape]) / 2**30
    if gib > max_gib:
        raise DoesNotFit(
            f"The images of {where} need {gib:.3g} GiB ({' x '.join(map(str, shape))}), more than "
            f"max_gib = {max_gib:g}: set --config.data.size=... smaller, raise --config.data.max_gib, or set "
            "--config.data.stream=auto."
        )


# --- the cache of decoded images


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
    file = _cache_file([CACHE_VERSION, identity, request.split, request.size, request.per_class], request.cache)
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


def cache_folder(cache: str | None) -> pathlib.Path:
    """Returns the folder for downloads and decoded images; it need not exist."""
    return pathlib.Path(cache or os.environ.get("SSL_JAX_CACHE") or "~/.cache/ssl_jax").expanduser()


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
    """Writes to a temporary file and renames it, so that a reader never sees half a file."""
    temporary = file.with_suffix(f".{uuid.uuid4().hex}.tmp")  # other machines may share the folder
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)
        os.replace(temporary, file)
    except OSError as error:
        log.warning("decoded images are not cached in %s (%s)", file.parent, error)
        with contextlib.suppress(OSError):
            temporary.unlink()
