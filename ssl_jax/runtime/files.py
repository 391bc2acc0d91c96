"""Files that are whole or not there: what is written replaces what was there only when all of it is on disk."""

from collections.abc import Iterator
import contextlib
import os
from typing import IO
import uuid

from etils import epath


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str] | epath.Path) -> Iterator[IO[bytes]]:
    """Opens a file to be written; without an error it then takes the place of `path`, with one `path` stays as it was.

    Neither a kill nor a power cut leaves half a file, and a full disk leaves the old one.

    Args:
      path: of the file, in an existing folder or a bucket.

    Raises:
      OSError: it cannot be written.
    """
    target = epath.Path(path)
    local = "://" not in os.fspath(target)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if local:
                os.fsync(file.fileno())
        if local:
            os.replace(temporary, target)  # whose errors, unlike etils', say what is wrong
        else:
            temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if local:
        _sync_folder(os.fspath(target.parent))


def write(path: str | os.PathLike[str] | epath.Path, content: str | bytes) -> None:
    """Writes a file as `replacing` does.

    Raises:
      OSError: it cannot be written.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _sync_folder(folder: str) -> None:
    """Makes a new name last; some file systems cannot, and then the name is as lasting as they make it."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
