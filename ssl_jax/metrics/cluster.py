"""Clustering: whether k-means finds the classes without being told of them."""

import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import normalized_mutual_info_score

from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime.errors import UserError

MAX_IMAGES = 20_000  # that k-means is fitted to


def cluster(
    train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, test_y: ArrayLike, *, num_classes: int, seed: int = 0
) -> dict[str, float]:
    """Clusters the training features into as many clusters as there are classes, and assigns the test features.

    k-means (scikit-learn's, ten starts) on features of length one. Each cluster is given a class of its own, in the
    way that makes most training images right (Hungarian method, Kuhn 1955), so that even this choice is not made on
    the test set.

    Args:
      train_x: [N, D] features of the training images; of more than `MAX_IMAGES` that many, evenly spaced, are used.
      train_y: [N] integers in [0, num_classes), -1 where unknown: they are clustered all the same.
      test_x: [M, D] features of the test images.
      test_y: [M] integers; rows with -1 are dropped.
      num_classes: number of classes, and of clusters.
      seed: of the starts of k-means.

    Returns:
      'accuracy' and 'nmi' (mutual information over the arithmetic mean of the entropies) on the test images.

    Raises:
      UserError: if there are fewer training images than clusters, or no test image has a label.
    """
    x, labels = _unit(evenly_spaced(np.asarray(train_x), MAX_IMAGES)), evenly_spaced(np.asarray(train_y), MAX_IMAGES)
    known = np.asarray(test_y) >= 0
    queries, truth = _unit(test_x)[known], np.asarray(test_y)[known]
    if len(x) < num_classes or not len(truth):
        raise UserError(
            f"Clustering needs at least {num_classes} training images, one a class, and labelled test images; there "
            f"are {len(x)} and {len(truth)}."
        )
    model = KMeans(num_classes, n_init=10, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # collapsed features have fewer than k distinct points
        found = model.fit_predict(x)
    classes = matching(found[labels >= 0], labels[labels >= 0], num_classes)
    answers = model.predict(queries)
    return {
        "accuracy": float(np.mean(classes[answers] == truth)),
        "nmi": float(normalized_mutual_info_score(truth, answers)),
    }


def matching(clusters: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The class [count] of each cluster, all different, that makes most of the images [N] right."""
    table = np.zeros((count, count), int)
    np.add.at(table, (clusters, labels), 1)
    return linear_sum_assignment(-table)[1]


def _unit(x: ArrayLike) -> np.ndarray:
    x = np.asarray(x, np.float32)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise UserError(f"Clustering needs finite features [N, D], but got shape {x.shape} or NaN.")
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
