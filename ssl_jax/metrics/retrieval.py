"""Retrieval: how many of an image's neighbours are of its class."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime.errors import UserError

MAX_QUERIES = 2000  # every one ranks the whole gallery
_BLOCK = 256


def retrieval(
    x: ArrayLike, labels: ArrayLike, *, ks: Sequence[int] = (1, 5, 10), max_queries: int = MAX_QUERIES
) -> dict[str, float]:
    """Ranks all other images by cosine similarity to each query.

    Precision and recall as metric learning has them (Musgrave et al. 2020): recall@k is the share of queries with at
    least one image of their class among the first k. R-precision is the precision at R, the number of other images of
    the query's class, and MAP@R the sum over the first R ranks of the precision at each relevant one, divided by R. The
    mean average precision is the mean over queries of the mean over the images of their class of the precision at each
    one's rank (not the trapezoidal area of the Oxford and Paris landmarks). Equal similarities rank by position.

    Args:
      x: [N, D] features, both queries and gallery; a query is not in its own gallery.
      labels: [N] integers; images labelled -1 take no part.
      ks: ranks at which recall and precision are read, those below the number of images.
      max_queries: most queries, evenly spaced over the images; the gallery is all of them.

    Returns:
      'map', 'map@r', 'r_precision', and 'recall@k' and 'precision@k' for each k, in [0, 1];
      means over the queries whose class has another image.

    Raises:
      UserError: shapes do not fit, a feature is not finite, or no class has two images.
    """
    x, labels = np.asarray(x, np.float32), np.asarray(labels)
    if x.ndim != 2 or labels.shape != x.shape[:1] or not np.isfinite(x).all():
        raise UserError(
            f"Retrieval needs finite features [N, D] and labels [N], but got shapes {x.shape} and {labels.shape}."
        )
    known = labels >= 0
    unit = x[known] / np.maximum(np.linalg.norm(x[known], axis=1, keepdims=True), 1e-12)
    labels = labels[known]
    _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    queries = evenly_spaced(np.flatnonzero(sizes[inverse] > 1), max_queries)
    if not len(queries):
        raise UserError("Retrieval needs a class of two labelled images; label more.")
    ks = [k for k in ks if k < len(unit)]
    found = [_scores(unit, labels, queries[i : i + _BLOCK], ks) for i in range(0, len(queries), _BLOCK)]
    names = ("map", "map@r", "r_precision", *(f"recall@{k}" for k in ks), *(f"precision@{k}" for k in ks))
    return dict(zip(names, map(float, np.concatenate(found).mean(0)), strict=True))


def hardest_triplets(x: ArrayLike, labels: ArrayLike, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The triplets of an image, another of its class and one of another class that are furthest from right order.

    Args:
      x: [N, D] features.
      labels: [N] integers; images labelled -1 take no part.
      count: most triplets; one an image, and no image twice as the first one.

    Returns:
      rows int [n, 3] of the image, of the least similar one of its class and of the most similar one of another, those
      of the largest difference first; and their cosines [n, 2].
    """
    x, labels = np.asarray(x, np.float32), np.asarray(labels)
    known = evenly_spaced(np.flatnonzero(labels >= 0), MAX_QUERIES)
    unit = x[known] / np.maximum(np.linalg.norm(x[known], axis=1, keepdims=True), 1e-12)
    similarity, same = unit @ unit.T, labels[known, None] == labels[known]
    np.fill_diagonal(same, False)
    other = labels[known, None] != labels[known]
    usable = np.flatnonzero(same.any(1) & other.any(1))
    close = np.where(same, similarity, np.inf)[usable]
    far = np.where(other, similarity, -np.inf)[usable]
    worst = np.argsort(close.min(1) - far.max(1), kind="stable")[:count]
    rows = np.stack([usable[worst], close[worst].argmin(1), far[worst].argmax(1)], 1)
    return known[rows], np.stack([close[worst].min(1), far[worst].max(1)], 1)


def _scores(x: np.ndarray, labels: np.ndarray, queries: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """[queries, 3 + 2 len(ks)]: average precision, MAP@R, R-precision, recall at each k, precision at each k."""
    similarity = x[queries] @ x.T
    similarity[np.arange(len(queries)), queries] = -np.inf  # the query itself comes last
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
    hits = labels[order] == labels[queries, None]
    count = np.cumsum(hits, axis=1)
    precision = count / np.arange(1, hits.shape[1] + 1)
    relevant = count[:, -1]
    average = (precision * hits).sum(1) / relevant
    first = np.arange(hits.shape[1]) < relevant[:, None]
    at_r, r_precision = (precision * hits * first).sum(1) / relevant, (hits & first).sum(1) / relevant
    recalls = [count[:, k - 1] > 0 for k in ks]
    precisions = [precision[:, k - 1] for k in ks]
    return np.stack([average, at_r, r_precision, *recalls, *precisions], 1)
