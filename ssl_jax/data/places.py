"""Opens what a user's path names: a file of a data set, or whatever holds image files."""

from collections.abc import Iterator
import contextlib
import pathlib

from ssl_jax.data.files import ZIP, Bucket, Folder, is_address, names_below
from ssl_jax.data.tars import ARCHIVES, Archive, Shards, open_tar
from ssl_jax.data.zips import Zip
from ssl_jax.runtime.errors import UserError

Files = Folder | Bucket | Shards | Archive | Zip


def place(source: str, where: str, path: str | None, wanted: str, archive: str = "") -> str:
    """Returns where the files of a source lie, as the user says: there, or in a file of that folder.

    Args:
      source: name of the source.
      where: the part of the source's name after the colon, if any.
      path: config.data.path, which stands in for it.
      wanted: what should lie there, for the message.
      archive: name of the file that holds them all, which may lie in a folder with others.

    Raises:
      UserError: neither says where.
    """
    if not (found := where or path or ""):
        raise UserError(
            f"Source '{source}' does not say where its files lie: write {source}:PATH or set --config.data.path=PATH, "
            f"where PATH is {wanted}."
        )
    inside = pathlib.Path(found).expanduser() / archive
    return str(inside) if archive and not is_address(found) and inside.is_file() else found


def find(source: str, where: str, path: str | None, name: str) -> pathlib.Path:
    """Returns a file of a source, which is at the user's path or in the folder there.

    Args:
      source: name of the source.
      where: as for `place`.
      path: as for `place`.
      name: of the file.

    Raises:
      UserError: it is not there; names where it was looked for.
    """
    found = pathlib.Path(place(source, where, path, f"{name} or its folder")).expanduser()
    found = found / name if found.is_dir() else found
    if not found.is_file():
        raise UserError(
            f"Source '{source}' needs {name}, and there is no file {found.absolute()}: set --config.data.path to it or "
            "to its folder."
        )
    return found


@contextlib.contextmanager
def opened(path: str, cache: str | None = None) -> Iterator[Files]:
    """Opens the images below a folder or an address, or in tar or zip files.

    Args:
      path: a folder of images or of .tar files, an address, or a .tar, .tar.gz, .tgz or .zip file.
      cache: folder to keep the index of an archive in; see `paths.cache_folder`.

    Raises:
      UserError: there is no such thing, or it is damaged.
    """
    found = pathlib.Path(path).expanduser()
    if is_address(path):
        yield Bucket(path)
    elif found.is_dir():
        folder = Folder(found)
        shards = [] if folder.entries else sorted(found / name for name in names_below(found) if name.endswith(".tar"))
        yield Shards(shards, found, cache) if shards else folder
    elif found.is_file() and found.name.lower().endswith(ARCHIVES):
        with open_tar(found) as tar:
            yield Archive(found, tar, cache)
    elif found.is_file() and found.name.lower().endswith(ZIP):
        yield Zip(found)
    elif found.exists():
        raise UserError(f"{found} is neither a folder nor a {', '.join((*ARCHIVES, ZIP))} file.")
    else:
        raise UserError(f"There are no images at {found.absolute()}: no such folder or archive.")
