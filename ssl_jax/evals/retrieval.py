"""Retrieval: each test image among all others."""

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import retrieval
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "retrieval", LABELLED, True, True


def measure(context: Context) -> list[Result]:
    """Mean average precision, R-precision, recall and precision of each representation, pixels included."""

    def among_test_images(train_x, train_y, test_x, test_y):
        del train_x, train_y
        return retrieval.retrieval(test_x, test_y)

    return context.each("retrieval", among_test_images, pixels=True)
