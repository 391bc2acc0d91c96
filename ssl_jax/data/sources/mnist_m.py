"""Source "mnist_m": MNIST blended with patches of photographs (Ganin et al. 2016), the usual target for MNIST."""

import numpy as np

from ssl_jax.data import places
from ssl_jax.data.arrays import read_digits, requested
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.data.decode import decode
from ssl_jax.runtime.errors import UserError

CARD = Card(
    side=28,
    channels=3,
    classes=10,
    count=60_000,
    test_count=10_000,
    mean=(0.4353, 0.4391, 0.3845),
    std=(0.2518, 0.2383, 0.2511),
    mirrors=False,
    licence="that of MNIST and of BSDS500 (non-commercial research and education)",
    origin="Ganin et al. 2016, sec. 5.2.1, made of mnist.npz and the photographs of BSDS500 (Arbelaez et al. 2011)",
)
PHOTOGRAPHS = "bsds500_train_images.tar"


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are made of the same two files."""
    for name in ("mnist.npz", PHOTOGRAPHS):
        places.find("mnist_m", where, path, name)
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Makes the images: |patch - digit| in each channel, the patch taken anywhere from any of the photographs.

    The authors draw the patches at random and published no list of them. Here they are drawn from fixed seeds, so that
    every start sees the same images.

    Args:
      where: folder of mnist.npz and of bsds500_train_images.tar.
      path: the same, where `where` is empty.
      request: which split and how large.

    Raises:
      UserError: one of the files is not there or is something else.
    """
    digits, labels = read_digits(places.find("mnist_m", where, path, "mnist.npz"), request.split)
    photographs = _photographs(str(places.find("mnist_m", where, path, PHOTOGRAPHS)), digits.shape[1:3])
    rng = np.random.default_rng([1994, ("train", "test").index(request.split)])
    images = np.empty((*digits.shape[:3], 3), np.uint8)
    chosen, tops, lefts = rng.integers(0, len(photographs), len(digits)), *rng.random((2, len(digits)))
    height, width = digits.shape[1:3]
    for row, (digit, photograph) in enumerate(zip(digits, (photographs[i] for i in chosen), strict=True)):
        top = int(tops[row] * (photograph.shape[0] - height + 1))
        left = int(lefts[row] * (photograph.shape[1] - width + 1))
        patch = photograph[top : top + height, left : left + width].astype(np.int16)
        images[row] = np.abs(patch - digit)
    return requested(Dataset("mnist_m", images, labels, tuple("0123456789"), card=CARD), request)


def _photographs(archive: str, least: tuple[int, ...]) -> list[np.ndarray]:
    """Returns the photographs in the order of their names, uint8 `[H, W, 3]`."""
    with places.opened(archive) as files:
        found = [(name, decode(read())) for _, name, read in files.read(files.entries)]
    photographs = [np.broadcast_to(pixels, (*pixels.shape[:2], 3)) for _, pixels in sorted(found, key=lambda x: x[0])]
    if not photographs or any(side < wanted for p in photographs for side, wanted in zip(p.shape, least, strict=False)):
        raise UserError(f"{archive} holds no photographs, or one that is smaller than a digit.")
    return photographs
