"""Features on disk, so that a second look at a checkpoint does not run the backbone again."""

from collections.abc import Callable
import logging
import zipfile
import zlib

from etils import epath
import numpy as np

from ssl_jax.runtime import files, processes
from ssl_jax.runtime.errors import UserError

logger = logging.getLogger("ssl_jax")

LIMIT = 2**32  # bytes of features that one workdir keeps


class FeatureCache:
    """The extracted features of one run, in `workdir/features`.

    A file is named by what was extracted, the checkpoint's step, and a hash of everything the features depend on:
    weights, images and view. Files of the same name and another step are dropped when a new one is written, and then
    the oldest until no more than `limit` bytes are left.

    Args:
      workdir: of the run.
      limit: bytes kept.
    """

    def __init__(self, workdir: str | epath.Path, limit: int = LIMIT) -> None:
        self._folder = epath.Path(workdir) / "features"
        self._limit = limit

    def get(self, name: str, step: int, key: str, count: int, make: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
        """Returns stored features, or makes and stores them.

        Args:
          name: what they are features of, for example 'pretrained'.
          step: of the checkpoint.
          key: changes with everything they depend on.
          count: number of arrays; a file that holds another is not one of these features, and is made anew.
          make: extracts them.

        Raises:
          UserError: if the workdir cannot be written.
        """
        path = self._folder / f"{name}-{step}-{key}.npz"
        found = _read(path)
        found = found if found is not None and len(found) == count else None
        if processes.all_say(found is not None) and found is not None:  # extraction is work for all processes
            return found
        arrays = make()
        if not processes.first():
            return arrays
        try:
            if sum(x.nbytes for x in arrays) <= self._limit:
                self._write(path, arrays)
            else:
                logger.info("The features of %s are too many to be kept; they are extracted anew each time.", name)
            self._tidy(name, step)
        except OSError as error:
            raise UserError(
                f"Features cannot be written to {self._folder} ({error.strerror}): free some space, or make the "
                "workdir writable."
            ) from error
        return arrays

    def _write(self, path: epath.Path, arrays: list[np.ndarray]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as file:
            np.savez(file, *arrays)

    def _tidy(self, name: str, step: int) -> None:
        for path in self._folder.glob(f"{name}-*.npz"):
            if path.name.split("-")[1] != str(step):
                path.unlink()
        newest_first = sorted(self._folder.glob("*.npz"), key=lambda path: path.stat().mtime, reverse=True)
        total = 0
        for path in newest_first:
            total += path.stat().length
            if total > self._limit:
                path.unlink()


def _read(path: epath.Path) -> list[np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return [stored[f"arr_{i}"] for i in range(len(stored.files))]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("%s cannot be read (%s); its features are extracted again.", path, error)
        return None
