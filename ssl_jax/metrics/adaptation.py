"""How well fixed features of one domain serve another, by the closed forms of domain adaptation.

The classifier is the nearest neighbour unless a row names another. Adaptation is transductive: the target's rows
without their labels, which are compared with the answers and read nowhere else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC, LinearSVC

from ssl_jax.metrics import reweighting, subspaces, transport
from ssl_jax.runtime.errors import UserError

_COSTS = (0.1, 1.0, 10.0, 100.0)  # of an SVM, chosen on the source by two folds


def nearest(source: np.ndarray, labels: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The class of the nearest row of the source; of equally near ones the first."""
    return labels[transport.squared_distances(target, source).argmin(1)]


def _kernel_svm(
    kernel: np.ndarray, labels: np.ndarray, between: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Classes by an SVM of the kernel [n, n] of the source and [m, n] of the target with it."""
    folds = StratifiedKFold(2) if np.unique(labels, return_counts=True)[1].min() > 1 else None
    right = []
    for cost in _COSTS:
        found = []
        for fit, held in folds.split(labels, labels) if folds else ():
            model = SVC(kernel="precomputed", C=cost).fit(kernel[np.ix_(fit, fit)], labels[fit])
            found.append(model.score(kernel[np.ix_(held, fit)], labels[held]))
        right.append(np.mean(found) if found else cost == 1)
    best = _COSTS[int(np.argmax(right))]
    return SVC(kernel="precomputed", C=best).fit(kernel, labels, sample_weight=weights).predict(between)


def svm(source: np.ndarray, labels: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Classes by a linear SVM on features divided by the root of their width; its C comes from folds of the source."""
    width = source.shape[1]
    return _kernel_svm(source @ source.T / width, labels, target @ source.T / width, weights)


def coral_svm_asymmetric(source: np.ndarray, labels: np.ndarray, target: np.ndarray) -> np.ndarray:
    """As the authors of CORAL measured it: the SVM is given X_s A X_s^T and X_t A^T X_s^T, which is no kernel of X_s A.

    Their published row is of this.
    """
    a, width = subspaces.coral_map(source, target), source.shape[1]
    return _kernel_svm(source @ a @ source.T / width, labels, target @ a.T @ source.T / width)


def _mapped(map_: Callable[..., subspaces.Pair], classify: Any = nearest) -> Callable[..., np.ndarray]:
    def predict(source: np.ndarray, labels: np.ndarray, target: np.ndarray) -> np.ndarray:
        own, other = map_(source, target)
        return classify(own, labels, other)

    return predict


def _jda(source: np.ndarray, labels: np.ndarray, target: np.ndarray) -> np.ndarray:
    own, other = subspaces.jda(source, labels, target, nearest)
    return nearest(own, labels, other)


def _class_transport(source: np.ndarray, labels: np.ndarray, target: np.ndarray) -> np.ndarray:
    own, other = transport.transported(source, target, labels)
    return nearest(own, labels, other)


def _weighed(weigh: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    """The SVM with weights of the source that come from features standardised over both domains.

    Where each domain is standardised by itself the means are the same, and no linear classifier tells them apart.
    """

    def predict(source: np.ndarray, labels: np.ndarray, target: np.ndarray) -> np.ndarray:
        both = subspaces.standardised(np.concatenate([source, target])) / np.sqrt(source.shape[1])
        weights = weigh(both[: len(source)], both[len(source) :])
        return svm(subspaces.standardised(source), labels, subspaces.standardised(target), weights)

    return predict


# Name to `(source, labels, target) -> classes of the target`, of features as they are.
RAW: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "unscaled": nearest,
    "importance_svm": _weighed(reweighting.density_ratio),
    "kmm_svm": _weighed(reweighting.mean_matching),
}
# The same, of features that are standardised in each domain.
ROWS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "nearest": nearest,
    "pca": _mapped(subspaces.pca),
    "subspace_alignment": _mapped(subspaces.subspace_alignment),
    "geodesic_flow": _mapped(subspaces.gfk),
    "coral": _mapped(subspaces.coral),
    "tca": _mapped(subspaces.tca),
    "jda": _jda,
    "tjm": _mapped(subspaces.tjm),
    "transport": _mapped(transport.transported),
    "class_transport": _class_transport,
    "svm": svm,
    "coral_svm": _mapped(subspaces.coral, svm),
    "coral_svm_asymmetric": coral_svm_asymmetric,
}


def _adaptive_svm(
    source: np.ndarray, labels: np.ndarray, few: np.ndarray, few_labels: np.ndarray, target: np.ndarray
) -> np.ndarray:
    scale = np.sqrt(source.shape[1])
    source, few, target = source / scale, few / scale, target / scale
    classes, scores = np.unique(labels), []
    for c in classes:
        model = LinearSVC(C=1.0, max_iter=20000, random_state=0).fit(source, labels == c)
        own = model.decision_function(few)
        w = reweighting.adaptive_svm(own, few, np.where(few_labels == c, 1.0, -1.0))
        scores.append(model.decision_function(target) + target @ w)
    return classes[np.argmax(scores, 0)]


def _target_alone(source, labels, few, few_labels, target):  # type: ignore[no-untyped-def]
    del source, labels
    return nearest(few, few_labels, target)


def _both(source, labels, few, few_labels, target):  # type: ignore[no-untyped-def]
    return nearest(np.concatenate([source, few]), np.concatenate([labels, few_labels]), target)


# With a few labelled rows of the target: `(source, labels, few, few_labels, target) -> classes of the target`.
FEW: dict[str, Callable[..., np.ndarray]] = {
    "few_target_alone": _target_alone,
    "few_nearest": _both,
    "few_tradaboost": reweighting.tradaboost,
    "few_adaptive_svm": _adaptive_svm,
}


def accuracies(
    source: np.ndarray,
    labels: np.ndarray,
    target: np.ndarray,
    target_labels: np.ndarray,
    *,
    few: int = 3,
    seed: int = 0,
    rows: Sequence[str] | None = None,
) -> dict[str, float]:
    """Accuracy on the target by each way of adapting to it.

    Args:
      source: features [n, D].
      labels: of the source [n].
      target: features [m, D].
      target_labels: [m], to measure by, and of `few` rows a class for those ways that are given a few labels.
      few: labelled rows of each class of the target, drawn at random; these are not measured.
      seed: of the draw.
      rows: which of `RAW`, `ROWS` and `FEW`; None: all.

    Returns:
      shares by name. 'unscaled' is the nearest neighbour of the features as they are; all others have each domain
      standardised by itself, which is a first adaptation.

    Raises:
      UserError: the features differ in width, or are not finite.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape[1] != target.shape[1] or not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise UserError(
            f"Adaptation needs finite features of one width, but got {source.shape} and {target.shape}: extract both "
            "with the same network."
        )
    wanted = (*RAW, *ROWS, *FEW) if rows is None else tuple(rows)
    answers = {name: RAW[name](source, labels, target) for name in wanted if name in RAW}
    source, target = subspaces.standardised(source), subspaces.standardised(target)
    answers |= {name: ROWS[name](source, labels, target) for name in wanted if name in ROWS}
    found = {name: float(np.mean(guess == target_labels)) for name, guess in answers.items()}
    known = _drawn(target_labels, few, seed)
    for name in wanted:
        if name in FEW and not known.all():
            guess = FEW[name](source, labels, target[known], target_labels[known], target[~known])
            found[name] = float(np.mean(guess == target_labels[~known]))
    return found


def _drawn(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which rows are the labelled ones: `count` of each class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    known = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        known[order[labels[order] == c][:count]] = True
    return known
