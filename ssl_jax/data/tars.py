"""Images in tar files: an uncompressed one is read at any place, a compressed one forwards only."""

import collections
from collections.abc import Iterator
import dataclasses
import functools
import pathlib
import posixpath
import tarfile
from typing import Literal
import zlib

import numpy as np

from ssl_jax.data.cache import remembered
from ssl_jax.data.files import ARRAYS, EXTENSIONS, Entry, Reader, images_among, is_hidden, left_out, read_part
from ssl_jax.data.labels import unwrap
from ssl_jax.runtime.errors import UserError

ARCHIVES = (".tar", ".tar.gz", ".tgz")
# What may be the matter with a member that is an image by its name.
_OUTSIDE = "{} lie outside of it and are left out"
_ASTRAY = "{} lead to no file in it and are left out"
_SPARSE = "{} are sparse, which cannot be streamed, and are left out"
_ABSOLUTE = "{} are named from / on, which is dropped"


class Shards:
    """The images in uncompressed .tar files, whose folders are merged into one tree."""

    def __init__(self, files: list[pathlib.Path], root: pathlib.Path, cache: str | None):
        self._files, self._root, self._cache = files, root, cache

    @functools.cached_property
    def _indices(self) -> list[tuple[pathlib.Path, list[tuple[str, int, int]], dict[str, np.ndarray]]]:
        return [(file, *_index(file, self._cache)) for file in self._files]

    @property
    def odd(self) -> list[str]:
        return _odd([stored for _, _, stored in self._indices])

    @functools.cached_property
    def entries(self) -> list[Entry]:
        found = []
        for file, members, _ in self._indices:
            # Those of train/x.tar belong to train/, whatever folders it has inside.
            above = file.parent.relative_to(self._root)
            for name, offset, size in members:
                found.append(Entry((above / name).as_posix(), size, 0, file=str(file), offset=offset))
        names = unwrap([entry.name for entry in found])
        found = [dataclasses.replace(entry, name=name) for entry, name in zip(found, names, strict=True)]
        return sorted(found, key=lambda entry: (entry.name, entry.file))

    def identity(self) -> object:
        return [(str(file.resolve()), file.stat().st_size, file.stat().st_ctime_ns) for file in self._files]

    def read(self, entries: list[Entry]) -> Iterator[tuple[int, str, Reader]]:
        for row, entry in enumerate(entries):
            yield row, entry.name, functools.partial(read_part, entry.file, entry.offset, entry.bytes)


def _index(file: pathlib.Path, cache: str | None) -> tuple[list[tuple[str, int, int]], dict[str, np.ndarray]]:
    """Name, offset and length of the images in a .tar file, and with what else was found, for `_odd`.

    They are listed once, since that reads all of its headers.
    """

    def make() -> dict[str, np.ndarray]:
        with open_tar(file, "r:") as tar:
            members, kinds = _members(tar, file)
        names, others = images_among(members)
        found = {name: members[name] for name in names if not members[name].issparse()}
        kinds[_SPARSE] = len(names) - len(found)
        places = [(member.offset_data, member.size) for member in found.values()]
        arrays = {"names": np.array(list(found), np.str_), "places": np.array(places, np.int64).reshape(-1, 2)}
        return arrays | _counted("suffixes", others) | _counted("kinds", kinds)

    stat = file.stat()
    stored = remembered(["tar index 2", str(file.resolve()), stat.st_size, stat.st_ctime_ns], cache, make)
    places = zip(stored["names"].tolist(), stored["places"].tolist(), strict=True)
    return [(name, offset, size) for name, (offset, size) in places], stored


def _counted(what: str, found: collections.Counter[str]) -> dict[str, np.ndarray]:
    return {what: np.array(list(found), np.str_), f"{what} counts": np.array(list(found.values()), np.int64)}


def _odd(stored: list[dict[str, np.ndarray]]) -> list[str]:
    """What to say of the members of archives that are no images, or no common ones."""
    counts = {"suffixes": collections.Counter[str](), "kinds": collections.Counter[str]()}
    for arrays in stored:
        for what, total in counts.items():
            total.update(dict(zip(arrays[what].tolist(), arrays[f"{what} counts"].tolist(), strict=True)))
    said = ", ".join(kind.format(count) for kind, count in counts["kinds"].items() if count)
    return [*left_out(counts["suffixes"]), *([f"of the members of the archive {said}"] if said else [])]


class Archive:
    """The images in a tar file, listed when first needed."""

    def __init__(self, file: pathlib.Path, tar: tarfile.TarFile, cache: str | None):
        self.file, self.tar, self._cache = file, tar, cache

    @functools.cached_property
    def _listed(self) -> tuple[dict[str, tarfile.TarInfo], dict[str, np.ndarray]]:
        members, kinds = _members(self.tar, self.file)
        names, others = images_among(members)
        found = dict(zip(unwrap(names), (members[name] for name in names), strict=True))
        return found, _counted("suffixes", others) | _counted("kinds", kinds)

    @property
    def members(self) -> dict[str, tarfile.TarInfo]:
        return self._listed[0]

    @functools.cached_property
    def _stored(self) -> dict[str, np.ndarray]:
        """Kept for the next start: the headers of a compressed archive are found by unpacking all of it."""

        def make() -> dict[str, np.ndarray]:
            members, odd = self._listed
            arrays = {
                "names": np.array(list(members), np.str_),
                "bytes": np.array([member.size for member in members.values()], np.int64),
            }
            return arrays | odd

        return remembered(["archive index 2", *self.identity()], self._cache, make)

    @property
    def odd(self) -> list[str]:
        return _odd([self._stored])

    @functools.cached_property
    def entries(self) -> list[Entry]:
        pairs = zip(self._stored["names"].tolist(), self._stored["bytes"].tolist(), strict=True)
        return [Entry(name, size, 0) for name, size in pairs]

    def identity(self) -> list[object]:
        stat = self.file.stat()
        return [str(self.file.resolve()), stat.st_size, stat.st_ctime_ns]

    def read(self, entries: list[Entry]) -> Iterator[tuple[int, str, Reader]]:
        """Yields the files in the archive's order: a compressed tar can only be read forwards."""
        rows = sorted(range(len(entries)), key=lambda row: self.members[entries[row].name].offset)
        last, data = None, b""
        for row in rows:
            member = self.members[entries[row].name]
            if member is not last:  # a link comes after its file, which is not unpacked again
                stream = self.tar.extractfile(member)
                last, data = member, stream.read() if stream else b""
            yield row, entries[row].name, functools.partial(bytes, data)


def _members(tar: tarfile.TarFile, file: pathlib.Path) -> tuple[dict[str, tarfile.TarInfo], collections.Counter[str]]:
    """The files of an archive by name, as unpacking would leave them: the last of a name counts, links are followed.

    Also how many images have something the matter with them, by kind.
    """
    try:
        members = list(tar)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} is damaged or incomplete ({error}): fetch it again.") from error
    named = {posixpath.normpath(member.name): member for member in members}
    found = {name.lstrip("/"): member for name, member in named.items() if not name.startswith("../")}
    files = {name: _followed(member, found) for name, member in found.items() if not member.isdir()}
    counts = collections.Counter(
        {
            _OUTSIDE: sum(_counts(name) for name in named if name.startswith("../")),
            _ASTRAY: sum(_counts(name, found[name]) for name, member in files.items() if member is None),
            _ABSOLUTE: sum(_counts(name) for name in named if name.startswith("/")),
        }
    )
    return {name: member for name, member in files.items() if member is not None}, counts


def _counts(name: str, member: tarfile.TarInfo | None = None) -> bool:
    """Whether a name is that of an image, or a member a link, which may lead to a folder of them; no hidden ones."""
    below = name.rpartition("../")[2].lstrip("/")
    link = member is not None and (member.issym() or member.islnk())
    return not is_hidden(below) and (link or pathlib.PurePosixPath(below).suffix.lower() in (*EXTENSIONS, *ARRAYS))


def _followed(member: tarfile.TarInfo | None, found: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The file that a member is or leads to; None where there is none."""
    for _ in range(10):  # links of links; those in a circle end nowhere
        if member is None or member.isfile():
            return member
        if not (member.islnk() or member.issym()):
            return None
        if member.issym() and member.linkname.startswith("/"):
            return None
        folder = posixpath.dirname(member.name) if member.issym() else ""
        member = found.get(posixpath.normpath(posixpath.join(folder, member.linkname)).lstrip("/"))
    return None


def open_tar(file: pathlib.Path, mode: Literal["r:*", "r:"] = "r:*") -> tarfile.TarFile:
    """Opens an archive; "r:" only one that is not compressed, which its name does not tell.

    Raises:
      UserError: it is none.
    """
    try:
        return tarfile.open(file, mode)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        if mode == "r:" and tarfile.is_tarfile(file):
            raise UserError(
                f"{file} is compressed, so that images cannot be read in any order: unpack it (gunzip), or call it "
                ".tar.gz."
            ) from error
        raise UserError(f"{file} is not a readable tar file ({error}): fetch it again.") from error
