"""Source "fashion_mnist": Fashion-MNIST (Xiao et al. 2017), 28x28 grey pixels of clothes."""

import dataclasses
import logging
import pathlib

import numpy as np

from ssl_jax.data.arrays import read_idx, requested
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.data.download import fetch
from ssl_jax.data.files import is_address
from ssl_jax.data.sources import tfds
from ssl_jax.runtime.errors import UserError
from ssl_jax.runtime.paths import cache_folder

CARD = Card(
    side=28,
    channels=1,
    classes=10,
    count=60_000,
    test_count=10_000,
    mean=(0.2860,),
    std=(0.3530,),
    mirrors=True,
    licence="MIT",
    origin="Xiao et al. 2017, https://github.com/zalandoresearch/fashion-mnist",
)
# Where the Debian and Ubuntu package dataset-fashion-mnist puts its files.
PACKAGE = pathlib.Path("/usr/share/datasets/fashion-mnist")
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
MD5 = {  # of the authors' files; Debian's are compressed anew and differ
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
CLASSES = (
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

log = logging.getLogger("ssl_jax")


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are there."""
    del where, path
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads 60,000 training or 10,000 test images.

    Args:
      where: folder of the four gzipped IDX files. They are looked for there, where the package
        dataset-fashion-mnist puts them, in the cache, and among prepared tfds data sets, of which it may be the
        folder; then downloaded.
      path: the same, where `where` is empty.
      request: which split and how large.

    Raises:
      UserError: a file is damaged, or there are none and they cannot be downloaded.
    """
    path = where or path
    downloads = cache_folder(request.cache) / "fashion_mnist"
    places = [*([pathlib.Path(path).expanduser()] if path else []), PACKAGE, downloads]
    place = next((place for place in places if all((place / name).is_file() for name in MD5)), None)
    if path and place != places[0] and not is_address(path) and tfds.prepared_in("fashion_mnist", path):
        place = None  # what was named comes before what lies in the usual places
    if path and place not in (None, places[0]) and request.split == "train":
        log.warning("There is no Fashion-MNIST in %s: taken from %s.", path, place)
    if place is None:
        if tfds.find("fashion_mnist", path):
            found = tfds.load("fashion_mnist", path, request)
            return dataclasses.replace(found, name="fashion_mnist", card=CARD)
        _download(downloads, [*places, *(root / "fashion_mnist" for root in tfds.roots(path))])
        place = downloads
    prefix = "train" if request.split == "train" else "t10k"
    images = read_idx(place / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    labels = read_idx(place / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
    if len(images) != len(labels):
        raise UserError(f"{place} holds {len(images)} {prefix} images but {len(labels)} labels: fetch it again.")
    dataset = Dataset("fashion_mnist", images[..., None], labels.astype(np.int32), CLASSES, card=CARD)
    return requested(dataset, request)


def _download(target: pathlib.Path, looked: list[pathlib.Path]) -> None:
    try:
        for name, md5 in MD5.items():
            fetch(URL + name, md5, target / name)
    except OSError as error:
        raise UserError(
            f"Fashion-MNIST is not in {', '.join(map(str, looked))}, and cannot be downloaded from "
            f"{URL} ({error}): run 'apt-get install dataset-fashion-mnist', or set "
            f"--config.data.path=... to the folder of {', '.join(MD5)}."
        ) from error
