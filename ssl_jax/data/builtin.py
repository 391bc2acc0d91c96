"""The small data sets of papers and tests: digits, tiles of photographs, Fashion-MNIST, CIFAR-10."""

from collections.abc import Callable, Iterator
import contextlib
import gzip
import hashlib
import os
import pathlib
import pickle
import tarfile
from typing import IO, Any
import urllib.request
import warnings
import zlib

import numpy as np
from PIL import Image

from ssl_jax.data import Dataset, Request, folder, tfds
from ssl_jax.runtime.errors import UserError

# Where the Debian and Ubuntu package dataset-fashion-mnist puts its files.
FASHION_PACKAGE = pathlib.Path("/usr/share/datasets/fashion-mnist")
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MD5 = {  # of the authors' files; Debian's are compressed anew and differ
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR_CLASSES = (
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
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def digits(request: Request) -> Dataset:
    """Loads the 1,797 handwritten digits of 8x8 pixels that scikit-learn ships.

    They have no official split: here every fourth image of a class, in scikit-learn's order, is test data
    (1,352 and 445 images). The same people wrote both parts, so test accuracy is flattered.

    Args:
      request: which split and how large.

    Returns:
      images `[N, 8, 8, 1]`, whose 17 grey levels are spread over 0 to 255.
    """
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = target.astype(np.int32)
    position = np.zeros(len(labels), int)  # of an image within its class
    for label in range(10):
        position[labels == label] = np.arange(np.sum(labels == label))
    rows = np.flatnonzero((position % 4 == 3) == (request.split == "test"))
    return _finish(Dataset("digits", images[rows], labels[rows], tuple("0123456789")), request)


def photo_tiles(request: Request) -> Dataset:
    """Cuts the two colour photographs that scikit-learn ships, a temple and a flower, into tiles of 32x32 pixels.

    For trying out what digits are too small and too grey for, without a download. Each photograph is halved in size;
    tiles lie 4 pixels apart; test tiles come from the right fifth of a photograph and training tiles from the rest
    (5,244 and 828). The label is the photograph.

    Args:
      request: which split and how large.

    Returns:
      images `[N, 32, 32, 3]`.
    """
    from sklearn.datasets import load_sample_images

    side, stride = 32, 4
    images, labels = [], []
    for label, photograph in enumerate(load_sample_images().images):
        height, width = photograph.shape[0] // 2, photograph.shape[1] // 2
        small = np.asarray(Image.fromarray(photograph).resize((width, height), Image.Resampling.BOX))
        border = width * 4 // 5
        part = small[:, border:] if request.split == "test" else small[:, :border]
        windows = np.lib.stride_tricks.sliding_window_view(part, (side, side), axis=(0, 1))[::stride, ::stride]
        tiles = windows.transpose(0, 1, 3, 4, 2).reshape(-1, side, side, 3)
        images.append(tiles)
        labels.append(np.full(len(tiles), label, np.int32))
    return _finish(
        Dataset("photo_tiles", np.concatenate(images), np.concatenate(labels), ("temple", "flower")), request
    )


# --- Fashion-MNIST


def fashion_mnist(request: Request, path: str | None = None) -> Dataset:
    """Loads Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images of 28x28 grey pixels.

    Args:
      request: which split and how large.
      path: folder of the four gzipped IDX files. They are looked for there, where the package
        dataset-fashion-mnist puts them, in the cache, and among prepared tfds data sets, of which it may be the
        folder; then downloaded.

    Raises:
      UserError: a file is damaged, or there are none and they cannot be downloaded.
    """
    downloads = folder.cache_folder(request.cache) / "fashion_mnist"
    places = [*([pathlib.Path(path).expanduser()] if path else []), FASHION_PACKAGE, downloads]
    place = next((place for place in places if all((place / name).is_file() for name in FASHION_MD5)), None)
    if place is None:
        if tfds.find("fashion_mnist", path):
            return tfds.load("fashion_mnist", request, path)
        _download_fashion(downloads, [*places, *(root / "fashion_mnist" for root in tfds.roots(path))])
        place = downloads
    prefix = "train" if request.split == "train" else "t10k"
    images = read_idx(place / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    labels = read_idx(place / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
    if len(images) != len(labels):
        raise UserError(f"{place} holds {len(images)} {prefix} images but {len(labels)} labels: fetch it again.")
    dataset = Dataset("fashion_mnist", images[..., None], labels.astype(np.int32), FASHION_CLASSES)
    return _finish(dataset, request)


def read_idx(file: pathlib.Path, dimensions: int) -> np.ndarray:
    """Reads a gzipped IDX file of bytes.

    Two zero bytes, the type (8: uint8), the number of dimensions, each dimension as a big-endian int32, then
    the values, the last dimension fastest.

    Args:
      file: the file.
      dimensions: how many it must have.

    Returns:
      uint8 array of that many dimensions.

    Raises:
      UserError: it is not such a file, or is truncated.
    """
    try:
        data = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} is damaged or incomplete ({error}): fetch it again.") from error
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(f"{file} is not an IDX file of {dimensions}-dimensional bytes: fetch it again.")
    shape = np.frombuffer(data[4:header], ">i4").tolist()
    if len(data) - header != np.prod(shape):
        raise UserError(f"{file} holds {len(data) - header} bytes where {shape} are due: fetch it again.")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _download_fashion(target: pathlib.Path, looked: list[pathlib.Path]) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, md5 in FASHION_MD5.items():
            with urllib.request.urlopen(FASHION_URL + name, timeout=30) as stream:
                data = stream.read()
            if hashlib.md5(data).hexdigest() != md5:
                raise UserError(f"{FASHION_URL}{name} does not have the checksum {md5}: try again later.")
            temporary = target / f"{name}.{os.getpid()}.tmp"
            temporary.write_bytes(data)
            os.replace(temporary, target / name)
    except OSError as error:
        raise UserError(
            f"Fashion-MNIST is not in {', '.join(map(str, looked))}, and cannot be downloaded from "
            f"{FASHION_URL} ({error}): run 'apt-get install dataset-fashion-mnist', or set "
            f"--config.data.path=... to the folder of {', '.join(FASHION_MD5)}."
        ) from error


# --- CIFAR-10


def cifar10(request: Request, path: str | None = None) -> Dataset:
    """Loads CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32 pixels.

    Args:
      request: which split and how large.
      path: the authors' "python version" (its folder or .tar.gz), or a folder or archive that `folder` reads;
        None is cifar10 among the prepared tfds data sets, of which it may be the folder as well.

    Raises:
      UserError: it is nowhere, or damaged.
    """
    if _is_prepared_cifar(path):
        return tfds.load("cifar10", request, path)
    assert path is not None
    with _cifar_batches(path) as read:
        if read is None:
            return folder.load(path, request)
        batches = [_unpickle(read, name, path) for name in CIFAR_FILES[request.split]]
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return _finish(Dataset("cifar10", images, labels, CIFAR_CLASSES), request)


def cifar10_splits(path: str | None = None) -> tuple[str, ...]:
    """Returns which of "train" and "test" the CIFAR-10 at `path` has; see `cifar10`.

    Args:
      path: as for `cifar10`.

    Raises:
      UserError: it is nowhere.
    """
    if _is_prepared_cifar(path):
        return tfds.splits("cifar10", path)
    assert path is not None
    with _cifar_batches(path) as read:
        return folder.splits(path) if read is None else ("train", "test")


def _is_prepared_cifar(path: str | None) -> bool:
    """Whether tfds has prepared it in `path`; without a path it must have."""
    found = tfds.find("cifar10", path)
    if path is not None:  # not in one of the usual places instead
        return found is not None and pathlib.Path(path).expanduser() in found.parents
    if found is None:
        looked = ", ".join(str(root / "cifar10") for root in tfds.roots(None))
        raise UserError(
            "CIFAR-10 needs --config.data.path=...: cifar-10-python.tar.gz from its authors (or the folder "
            f"{CIFAR_FOLDER} in it), or a folder or archive of train/CLASS/*.png and test/CLASS/*.png; it is "
            f"not prepared by tfds either (looked in {looked})."
        )
    return True


@contextlib.contextmanager
def _cifar_batches(path: str) -> Iterator[Callable[[str], IO[bytes]] | None]:
    """Yields a function that opens one of the authors' files, or None where `path` is something else."""
    place = pathlib.Path(path).expanduser()
    batches = place if (place / "data_batch_1").is_file() else place / CIFAR_FOLDER
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
        if pathlib.PurePosixPath(first).parent.name != CIFAR_FOLDER:
            yield None
            return

        def extract(name: str) -> IO[bytes]:
            stream = tar.extractfile(f"{CIFAR_FOLDER}/{name}")
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


def _finish(dataset: Dataset, request: Request) -> Dataset:
    """Applies `per_class` and `size` to a data set in memory."""
    images, labels = dataset.images, dataset.labels
    if request.per_class is not None:
        rows = folder.first_per_class(labels, request.per_class, dataset.name)
        images, labels = images[rows], labels[rows]
    if request.size is not None and images.shape[1:3] != (request.size, request.size):
        shape = (len(images), request.size, request.size, images.shape[3])
        folder.check_memory(shape, request.max_gib, dataset.name)
        small, images = images, np.zeros(shape, np.uint8)
        for row, image in enumerate(small):
            fitted = folder.fit(Image.fromarray(image.squeeze(2) if shape[3] == 1 else image), request.size)
            images[row] = np.asarray(fitted).reshape(shape[1:])
    return Dataset(dataset.name, images, labels, dataset.classes)
