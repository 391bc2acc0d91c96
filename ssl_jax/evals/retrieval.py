"""Retrieval: each test image among all others."""

from ssl_jax.evals import pictures
from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import retrieval
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "retrieval", LABELLED, True, True

_SHOWN = 5  # triplets in the report


def measure(context: Context) -> list[Result]:
    """Mean average precision, R-precision, recall and precision of each representation, pixels included."""

    def among_test_images(train_x, train_y, test_x, test_y):
        del train_x, train_y
        return retrieval.retrieval(test_x, test_y)

    _show(context)
    return context.each("retrieval", among_test_images, pixels=True)


def _show(context: Context) -> None:
    """Shows the hardest triplets among the test images."""
    test, labels = context.images[1], context.features.labels[1]
    rows, cosines = retrieval.hardest_triplets(context.features.pretrained[1], labels, _SHOWN)
    if not len(rows):
        return
    images = test.pictures(rows.reshape(-1), context.run.eval_side)
    names = [[test.class_name(labels[i]) for i in three] for three in rows]
    captions = tuple(
        (a, f"{p} ({close:.2f})", f"{n} ({far:.2f})") for (a, p, n), (close, far) in zip(names, cosines, strict=True)
    )
    title = (
        "The hardest triplets: an image, the least similar one of its class and the most similar one of another class."
    )
    columns = ("image", "its class, least similar", "another class, most similar")
    context.pictures.append(pictures.grid(title, columns, images, captions))
