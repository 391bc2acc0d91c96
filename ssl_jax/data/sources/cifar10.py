"""Source "cifar10": CIFAR-10 (Krizhevsky 2009), 32x32 photographs of ten kinds of things."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import logging
import pathlib
import pickle
import tarfile
from typing import IO, Any
import warnings
import zlib

import numpy as np

from ssl_jax.data.arrays import requested
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.data.download import fetch
from ssl_jax.data.sources import folder, tfds
from ssl_jax.runtime.errors import UserError
from ssl_jax.runtime.paths import cache_folder

logger = logging.getLogger("ssl_jax")

CARD = Card(
    side=32,
    channels=3,
    classes=10,
    count=50_000,
    test_count=10_000,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    mirrors=True,
    licence="none stated",
    origin="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
)
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
URL, MD5 = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}", "c58f30108f718f92721af3b95e74349a"  # of the authors
FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads 50,000 training or 10,000 test images.

    Args:
      where: the authors' "python version" (its folder or .tar.gz), or a folder or archive that `folder` reads;
        empty is cifar10 among the prepared tfds data sets, of which it may be the folder as well, or else a download.
      path: the same, where `where` is empty.
      request: which split and how large.

    Raises:
      UserError: it is nowhere, or damaged.
    """
    place = _place(where, path)
    if _is_prepared(place):
        return _named(tfds.load("cifar10", place, request))
    assert place is not None
    with _batches(place) as read:
        if read is None:
            return _named(folder.load(place, None, request))
        batches = [_unpickle(read, name, place) for name in FILES[request.split]]
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return requested(Dataset("cifar10", images, labels, CLASSES, card=CARD), request)


def listing(where: str, path: str | None, request: Request) -> Dataset:
    """Lists one split for streaming: as tfds has prepared it, or a folder or archive of images.

    Args:
      where: as for `load`.
      path: as for `load`.
      request: which split and how large.

    Raises:
      UserError: it is nowhere, damaged, or in the authors' files, which hold all images at once.
    """
    place = _place(where, path)
    if _is_prepared(place):
        return _named(tfds.listing("cifar10", place, request))
    assert place is not None
    return _named(folder.listing(place, None, request))


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Returns which of "train" and "test" there are.

    Args:
      where: as for `load`.
      path: as for `load`.

    Raises:
      UserError: it is nowhere.
    """
    place = _place(where, path)
    if _is_prepared(place):
        return tfds.splits("cifar10", place)
    assert place is not None
    with _batches(place) as read:
        return folder.splits(place, None) if read is None else ("train", "test")


def _named(dataset: Dataset) -> Dataset:
    return dataclasses.replace(dataset, name="cifar10", card=CARD)


def _place(where: str, path: str | None) -> str | None:
    """Where the images are: as the user says, or None for tfds, or the authors' archive, downloaded if need be."""
    if where or path or tfds.find("cifar10", None):
        return where or path
    archive = cache_folder(None) / "cifar10" / ARCHIVE
    if not archive.is_file():
        try:
            logger.warning("Downloading CIFAR-10 (170 MB) from %s to %s.", URL, archive.parent)
            fetch(URL, MD5, archive)
        except OSError as error:
            looked = ", ".join(str(root / "cifar10") for root in tfds.roots(None))
            raise UserError(
                f"CIFAR-10 cannot be downloaded from {URL} ({error}): set --config.data.path=... to {ARCHIVE} from its "
                f"authors (or the folder {FOLDER} in it), or to a folder or archive of train/CLASS/*.png and "
                f"test/CLASS/*.png; it is not prepared by tfds either (looked in {looked})."
            ) from error
    return str(archive)


def _is_prepared(path: str | None) -> bool:
    """Whether tfds has prepared it in `path`; without a path it has."""
    return path is None or tfds.prepared_in("cifar10", path)


@contextlib.contextmanager
def _batches(path: str) -> Iterator[Callable[[str], IO[bytes]] | None]:
    """Yields a function that opens one of the authors' files, or None where `path` is something else."""
    place = pathlib.Path(path).expanduser()
    batches = place if (place / "data_batch_1").is_file() else place / FOLDER
    if batches.is_dir():
        yield lambda name: (batches / name).open("rb")
        return
    try:
        with tarfile.open(place) as tar:
            first = next((member.name for member in tar if member.isfile()), "")
    except (tarfile.TarError, OSError, EOFError, zlib.error):  # `folder` says what is wrong with it
        first = ""
    if not first:
        yield None
        return
    with tarfile.open(place) as tar:
        if pathlib.PurePosixPath(first).parent.name != FOLDER:
            yield None
            return

        def extract(name: str) -> IO[bytes]:
            stream = tar.extractfile(f"{FOLDER}/{name}")
            assert stream is not None
            return stream

        yield extract


class _Unpickler(pickle.Unpickler):
    """Reads arrays and plain values only: a pickle from elsewhere could otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        arrays = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        if (module, name) != ("_codecs", "encode") and not (
            module in arrays and name in ("_reconstruct", "ndarray", "dtype")
        ):
            raise pickle.UnpicklingError(f"{module}.{name} is not expected in it")
        return super().find_class(module, name)


def _unpickle(read: Callable[[str], IO[bytes]], name: str, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images `[n, 32, 32, 3]` and labels `[n]` of one of the authors' files."""
    try:
        with read(name) as stream, warnings.catch_warnings():
            # Python 2 wrote the array's dtype with integers where numpy now wants booleans.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            batch = _Unpickler(stream, encoding="bytes").load()
        images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.array(batch[b"labels"], np.int32)
    except Exception as error:  # a damaged pickle raises anything at all
        raise UserError(f"{name} of {path} is missing or damaged ({error}): fetch it again.") from error
    if images.dtype != np.uint8 or labels.shape != images.shape[:1] or not np.all((labels >= 0) & (labels < 10)):
        raise UserError(f"{name} of {path} does not hold images with labels of 0 to 9: fetch it again.")
    return images, labels
