"""Image files in a folder or a bucket: their names, and their bytes, with a retry where reading fails for now."""

import collections
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import importlib.util
import os
import pathlib
import stat
import time
from typing import Any
import zlib

import fsspec
from PIL import features

from ssl_jax.runtime.errors import TryAgain, UserError

_PLAIN = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What Pillow reads where it was built so.
_OPTIONAL = {".jp2": "jpg_2000", ".avif": "avif"}
_HEIC = (".heic", ".heif")  # what Pillow reads with a package of its own, see `pixels`
_HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None
HEIC_HINT = "" if _HAS_HEIC else " HEIC is read after pip install pillow-heif."
EXTENSIONS = (
    *_PLAIN,
    *(ending for ending, name in _OPTIONAL.items() if name in features.get_supported()),
    *(_HEIC if _HAS_HEIC else ()),
)
ZIP = ".zip"
ARRAYS = (".npy", ".npz")  # images too, where there are no others
_MOST_BYTES = 2**31  # that a member of an archive may unpack to: any number of zeros take no room
_PAUSES = (1.0, 4.0, 16.0, 64.0)  # seconds between attempts to read what cannot be read now

Reader = Callable[[], bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One image file: its name within the source, what identifies its content, its label, and where it lies."""

    name: str
    bytes: int
    version: int  # of a file the time of its last change, which nobody can set back
    label: int = -1
    file: str = ""  # the .tar file that holds it, if any
    offset: int = 0  # of its first byte in there
    page: int = 0  # or frame


class Folder:
    """The images below a folder, and what else was found there: `odd`, sentences for people."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self._unreadable: list[str] = []  # names of what is no file, and of links that lead nowhere
        self._closed: list[str] = []  # folders that cannot be listed
        names, self._others = images_among(names_below(root, self._closed))
        self.entries = sorted(self._found(names), key=lambda entry: entry.name)

    def _found(self, names: list[str]) -> Iterator[Entry]:
        for name in names:
            try:
                found = (self.root / name).stat()
            except OSError:
                self._unreadable.append(name)
                continue
            if stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
                yield Entry(name, found.st_size, found.st_ctime_ns)
            else:
                self._unreadable.append(name)

    @property
    def odd(self) -> list[str]:
        found = left_out(self._others)
        if self._unreadable:
            names = f"{', '.join(self._unreadable[:3])}{', ...' if len(self._unreadable) > 3 else ''}"
            found.append(f"left out {len(self._unreadable)} names that lead to no file ({names})")
        if self._closed:
            found.append(f"left out {len(self._closed)} folders that cannot be listed ({self._closed[0]})")
        return found

    def identity(self) -> object:
        return [
            str(self.root.resolve()),
            [(entry.name, entry.bytes, entry.version) for entry in self.entries],
        ]

    def read(self, entries: list[Entry]) -> Iterator[tuple[int, str, Reader]]:
        for row, entry in enumerate(entries):
            yield row, entry.name, (self.root / entry.name).read_bytes


class Bucket:
    """The images below a folder in a bucket (gs://BUCKET/FOLDER, or whatever fsspec can read), listed in one go."""

    def __init__(self, root: str):
        self.root = root
        try:
            files, place = fsspec.core.url_to_fs(root)
            found = files.find(place, detail=True)
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"{root} cannot be read ({error}): for gs:// pip install -e .[gcs] and log in.") from error
        below = {name[len(place.rstrip("/")) + 1 :]: about for name, about in sorted(found.items())}
        names, others = images_among(below)
        self.entries = [Entry(name, below[name]["size"], self._version(below[name])) for name in names]
        self.odd = left_out(others)

    @staticmethod
    def _version(about: dict[str, Any]) -> int:
        """A number that changes with the content; stores call it differently."""
        told = [str(about[name]) for name in ("etag", "md5Hash", "mtime", "created") if name in about]
        return zlib.crc32(" ".join(told).encode())

    def identity(self) -> object:
        return [self.root, [(entry.name, entry.bytes, entry.version) for entry in self.entries]]

    def read(self, entries: list[Entry]) -> Iterator[tuple[int, str, Reader]]:
        for row, entry in enumerate(entries):
            yield row, entry.name, functools.partial(read_file, self.root, entry.name)


def read_file(root: str, name: str) -> bytes:
    """Returns the bytes of a file below a folder, or below an address such as gs://BUCKET/FOLDER."""
    if not is_address(root):
        return (pathlib.Path(root) / name).read_bytes()
    files, place = fsspec.core.url_to_fs(root)
    return files.cat_file(f"{place.rstrip('/')}/{name}")


def read_part(file: str, offset: int, count: int) -> bytes:
    """Returns `count` bytes of a file from `offset` on."""
    with open(file, "rb") as stream:
        stream.seek(offset)
        return stream.read(count)


def read_zipped(file: str, header: int, count: int) -> bytes:
    """Returns a member of a .zip file.

    Args:
      file: the .zip file.
      header: place of the member's own header.
      count: bytes of the member as it is packed.

    Raises:
      ValueError: it is packed in another way than "stored" or "deflated", is damaged, or unpacks to very much.
    """
    start = read_part(file, header, 30)
    if start[:4] != b"PK\3\4" or len(start) < 30:
        raise ValueError("its header in the archive is damaged")
    method, name, extra = (int.from_bytes(start[at : at + 2], "little") for at in (8, 26, 28))
    packed = read_part(file, header + 30 + name + extra, count)
    if method not in (0, 8):
        raise ValueError(f"it is packed by method {method}, not stored or deflated")
    if method == 0:
        return packed
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpack.decompress(packed, _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"it cannot be unpacked ({error})") from error
    if not unpack.eof:
        raise ValueError(f"it is cut off, or unpacks to more than {_MOST_BYTES} bytes")
    return content


def retry(read: Reader, name: str) -> bytes:
    """Returns what `read` gives; tries again for a while where the fault may pass, as of a network drive that is away.

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


def names_below(root: pathlib.Path, closed: list[str] | None = None) -> Iterator[str]:
    """Yields the names of all files below a folder; a link to a folder around itself is not followed.

    Args:
      root: the folder.
      closed: gets the names of folders that cannot be listed, and why.
    """
    above: dict[str, tuple[tuple[int, int], ...]] = {}  # folder to what identifies it and those around it
    failed: list[OSError] = []
    for folder, below, files in os.walk(root, onerror=failed.append, followlinks=True):
        around = above.pop(folder, None) or (_identity(folder),)
        for name in list(below):
            inner = os.path.join(folder, name)
            try:
                own = _identity(inner)
            except OSError as error:
                failed.append(error)
                below.remove(name)
                continue
            if own in around:
                below.remove(name)
            else:
                above[inner] = (*around, own)
        place = pathlib.Path(folder).relative_to(root)
        yield from ((place / file).as_posix() for file in files)
    if closed is not None:
        closed += [f"{os.path.relpath(error.filename, root)}: {error.strerror}" for error in failed]


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def images_among(names: Iterable[str]) -> tuple[list[str], collections.Counter[str]]:
    """Which names are of image files, and how many others there are of each suffix; hidden files do not count.

    Arrays are images where there are no others.
    """
    shown = [name for name in names if not is_hidden(name)]
    suffixes = [pathlib.PurePosixPath(name).suffix.lower() for name in shown]
    kinds = EXTENSIONS if set(suffixes) & set(EXTENSIONS) else ARRAYS
    found = [name for name, suffix in zip(shown, suffixes, strict=True) if suffix in kinds]
    return found, collections.Counter(suffix or "none" for suffix in suffixes if suffix not in kinds)


def left_out(others: collections.Counter[str]) -> list[str]:
    """What to say of files that are no images, by number and suffix; nothing where there are none."""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    more = ", ..." if len(others) > 5 else ""
    hint = HEIC_HINT if set(others) & set(_HEIC) else ""
    return (
        [f"left out {others.total()} files that are no images by their suffix ({kinds}{more}){hint}"] if others else []
    )


def printable(name: str) -> str:
    """A name for people and text files: what cannot be printed, as bytes that are no text, becomes an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder around it is hidden."""
    return any(part.startswith(".") for part in pathlib.PurePosixPath(name).parts)
