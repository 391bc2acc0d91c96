"""The linear probe without a learning rate: multinomial logistic regression by L-BFGS."""

from collections.abc import Sequence
from typing import TypedDict
import warnings

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from ssl_jax.metrics.linear import both_labelled, choose, held_out_part, standardise
from ssl_jax.runtime import progress
from ssl_jax.runtime.errors import UserError

# Inverse strengths of the L2 penalty, weakest last. On standardised features the held-out part has its best between
# the ends for ten to a hundred thousand images; where it has not, `at_edge` says so.
CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
MAX_ITERATIONS = 1000
# Features times classes: ten classes of 10,000 x 128 took a quarter of the time on two idle cores, of x 3072 half.
_ONE_THREAD = 500_000_000


class Result(TypedDict):
    """What a probe found; accuracies lie in [0, 1]."""

    top1: float  # on the test set, of the fit to the whole training set
    c: float  # the chosen inverse strength of the penalty
    held_out_top1: float  # on the part of the training set that chose it
    at_edge: bool  # it is an end of the grid, so a wider grid might do better
    converged: bool  # whether the last fit did


def probe(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    test_y: ArrayLike,
    *,
    num_classes: int,
    cs: Sequence[float] = CS,
    seed: int = 0,
) -> Result:
    """Fits logistic regression to frozen features and measures it on the test set.

    The protocol of Kornblith et al. 2019 and SimCLR (appendix B.8), on a coarser grid: the penalty is chosen on a
    held-out tenth of each class of the training set, never on the test set, and the classifier is then fitted to the
    whole training set. Features are standardised by the training set, so that one grid suits all methods.

    Args:
      train_x: [N, D] features of the training images.
      train_y: [N] integers in [0, num_classes); rows labelled -1 are dropped, here and in the test set.
      test_x: [M, D] features of the test images.
      test_y: [M] integers.
      num_classes: number of classes.
      cs: candidates, scikit-learn's `C`: it weighs the sum of the losses against half the squared weights.
      seed: of the held-out part.

    Raises:
      UserError: shapes or labels do not fit, a feature is not finite, the training set has fewer than two classes or
        none of two images.
    """
    train_x, train_y, test_x, test_y = both_labelled(train_x, train_y, test_x, test_y, num_classes)
    if len(np.unique(train_y)) < 2:
        raise UserError("The probe needs training labels of two classes; label more images.")
    candidates = np.sort(np.asarray(cs, float))
    train_x, test_x = standardise(train_x, test_x)
    held_out = held_out_part(train_y, seed)
    with progress.counted(fits(candidates), "fits"):
        accuracies = _sweep(train_x, train_y, held_out, candidates)
        best = choose(accuracies)
        model = LogisticRegression(C=candidates[best], max_iter=MAX_ITERATIONS)
        converged = fit(model, train_x, train_y)
    return {
        "top1": float(model.score(test_x, test_y)),
        "c": float(candidates[best]),
        "held_out_top1": float(accuracies[best]),
        "at_edge": len(candidates) > 1 and best in (0, len(candidates) - 1),
        "converged": converged,
    }


def fits(cs: Sequence[float] | np.ndarray = CS) -> int:
    """How often a probe with these candidates fits."""
    return len(cs) + 1


def _sweep(x: np.ndarray, y: np.ndarray, held_out: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Held-out accuracies [L]; each fit starts from the one before, which has the stronger penalty."""
    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    accuracies = []
    for c in candidates:
        fit(model.set_params(C=c), x[~held_out], y[~held_out])
        accuracies.append(model.score(x[held_out], y[held_out]))
    return np.array(accuracies)


def fit(model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> bool:
    """Fits in place; returns whether the optimiser converged."""
    # For products so small the threads of BLAS wait for each other longer than they work.
    threads = 1 if x.size * len(np.unique(y)) <= _ONE_THREAD else None
    with threadpool_limits(threads, user_api="blas"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, y)
    progress.tick()
    for warning in caught:  # others are for people to see
        if not issubclass(warning.category, ConvergenceWarning):
            warnings.warn(warning.message, stacklevel=2)
    return not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
