"""Weighted k-nearest-neighbour classification, with k and temperature as the run's monitor has them."""

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import knn
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "kNN", LABELLED, True, True


def measure(context: Context) -> list[Result]:
    """Accuracy of each representation, pixels included."""
    labels, config = context.features.labels, context.config.eval
    found = []
    for name, (bank, queries) in context.features.with_pixels().items():
        top1 = knn.top1(
            bank,
            labels[0],
            queries,
            labels[1],
            num_classes=context.features.classes,
            k=min(config.knn_k, len(bank)),
            temperature=config.knn_temperature,
        )
        found.append(Result("knn/top1", top1, name))
    return found
