"""Source "mnist": MNIST (LeCun et al. 1998), 28x28 grey pixels of handwritten digits."""

from ssl_jax.data import places
from ssl_jax.data.arrays import read_digits, requested
from ssl_jax.data.dataset import Card, Dataset, Request

CARD = Card(
    side=28,
    channels=1,
    classes=10,
    count=60_000,
    test_count=10_000,
    mean=(0.1307,),
    std=(0.3081,),
    mirrors=False,
    licence="CC BY-SA 3.0",
    origin="LeCun et al. 1998, http://yann.lecun.com/exdb/mnist",
)


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are in the one file."""
    places.find("mnist", where, path, "mnist.npz")
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads 60,000 training or 10,000 test images.

    Args:
      where: mnist.npz or its folder; the file has the arrays `x_train`, `y_train`, `x_test` and `y_test`, as Keras
        keeps it.
      path: the same, where `where` is empty.
      request: which split and how large.

    Raises:
      UserError: the file is not there or is something else.
    """
    images, labels = read_digits(places.find("mnist", where, path, "mnist.npz"), request.split)
    return requested(Dataset("mnist", images, labels, tuple("0123456789"), card=CARD), request)
