"""Clustering: k-means with as many clusters as classes."""

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import cluster
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "clustering", LABELLED, True, True


def measure(context: Context) -> list[Result]:
    """Accuracy and mutual information of each representation, pixels included."""
    return context.each("cluster", lambda *sets: cluster.cluster(*sets, **context.common), pixels=True)
