"""Source "usps": USPS (Hull 1994), 16x16 grey pixels of digits from envelopes."""

from ssl_jax.data import places
from ssl_jax.data.arrays import read_digits, requested
from ssl_jax.data.dataset import Card, Dataset, Request

CARD = Card(
    side=16,
    channels=1,
    classes=10,
    count=7291,
    test_count=2007,
    mean=(0.2545,),
    std=(0.3846,),
    mirrors=False,
    licence="none stated",
    origin="Hull 1994, zip codes read by the US Postal Service",
)


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are in the one file."""
    places.find("usps", where, path, "usps.npz")
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads 7,291 training or 2,007 test images.

    Args:
      where: usps.npz or its folder; the file has the arrays `x_train`, `y_train`, `x_test` and `y_test`.
      path: the same, where `where` is empty.
      request: which split and how large.

    Raises:
      UserError: the file is not there or is something else.
    """
    images, labels = read_digits(places.find("usps", where, path, "usps.npz"), request.split)
    return requested(Dataset("usps", images, labels, tuple("0123456789"), card=CARD), request)
