"""Images in a .zip file, each of which is found and unpacked by itself."""

import collections
from collections.abc import Iterator
import functools
import pathlib
import posixpath
import stat
import zipfile

from ssl_jax.data.files import Entry, Reader, images_among, is_hidden, left_out, read_zipped
from ssl_jax.data.labels import unwrap
from ssl_jax.runtime.errors import UserError


class Zip:
    """The images in a .zip file, and what else was found there: `odd`, sentences for people.

    Raises:
      UserError: it is damaged.
    """

    def __init__(self, file: pathlib.Path):
        self.file = file
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
            raise UserError(f"{file} is no readable .zip file ({error}): fetch it again.") from error
        named: dict[str, zipfile.ZipInfo] = {}
        kinds: collections.Counter[str] = collections.Counter()
        for info in infos:
            name = posixpath.normpath(info.filename.replace("\\", "/")).lstrip("/")
            if kind := _strange(name, info):
                kinds[kind] += bool(images_among([name.rpartition("../")[2]])[0])
            elif not info.is_dir():
                named[name] = info  # of a file that is stored twice the last counts
        names, others = images_among(named)
        said = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        self.odd = [*left_out(others), *([f"of the members of the archive are left out: {said}"] if said else [])]
        pairs = [(name, named[own]) for name, own in zip(unwrap(names), names, strict=True)]
        self.entries = sorted(
            (Entry(name, i.compress_size, i.CRC, file=str(file), offset=i.header_offset) for name, i in pairs),
            key=lambda entry: entry.name,
        )

    def identity(self) -> object:
        found = self.file.stat()
        return [str(self.file.resolve()), found.st_size, found.st_ctime_ns]

    def read(self, entries: list[Entry]) -> Iterator[tuple[int, str, Reader]]:
        for row, entry in enumerate(entries):
            yield row, entry.name, functools.partial(read_zipped, entry.file, entry.offset, entry.bytes)


def _strange(name: str, info: zipfile.ZipInfo) -> str:
    """Why a member is not read, of those that may be images; "": it is."""
    if name.startswith("../"):
        return "outside of it"
    if is_hidden(name):
        return ""
    if info.flag_bits & 1:
        return "encrypted"
    return "links" if stat.S_ISLNK(info.external_attr >> 16) else ""
