"""Domain adaptation in closed form: maps of fixed features that bring the source and the target together.

Features are rows, float64 [N, D]. Nothing here reads a label of the target. Eigenvectors have a free sign, which
distances do not see.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg

Pair = tuple[np.ndarray, np.ndarray]  # of the source and of the target


def standardised(x: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and population standard deviation 1; a constant column becomes 0."""
    x = np.asarray(x, np.float64)
    std = x.std(0)
    return (x - x.mean(0)) / np.where(std == 0, 1, std)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length == 0, 1, length)


def components(x: np.ndarray, count: int) -> np.ndarray:
    """The first principal directions as columns [D, count]."""
    return np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:count].T


def pca(source: np.ndarray, target: np.ndarray, count: int = 30) -> Pair:
    """Both domains in the principal directions of all rows: dimension reduction, which is no adaptation."""
    directions = components(np.concatenate([source, target]), count)
    return source @ directions, target @ directions


def coral_map(source: np.ndarray, target: np.ndarray, penalty: float = 1.0) -> np.ndarray:
    """The matrix A of CORAL [D, D]: whitens the source and gives it the target's covariance.

    Sun et al. 2016, algorithm 1: (C_s + I)^(-1/2) (C_t + I)^(1/2), with covariances over n - 1.
    """
    eye = penalty * np.eye(source.shape[1])
    whiten = _power(np.atleast_2d(np.cov(source, rowvar=False)) + eye, -0.5)
    return whiten @ _power(np.atleast_2d(np.cov(target, rowvar=False)) + eye, 0.5)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = scipy.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def coral(source: np.ndarray, target: np.ndarray) -> Pair:
    """The source with the target's covariance, and the target as it is."""
    return source @ coral_map(source, target), target


def subspace_alignment(source: np.ndarray, target: np.ndarray, count: int = 20, bases: Pair | None = None) -> Pair:
    """Subspace alignment of Fernando et al. 2013: source X_s P_s P_s^T P_t [n, count], target X_t P_t.

    Args:
      source: rows.
      target: rows.
      count: of principal directions of each domain.
      bases: those directions as columns; None: computed.
    """
    own, other = bases or (components(source, count), components(target, count))
    return source @ own @ (own.T @ other), target @ other


def geodesic_flow_kernel(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The kernel G [D, D] that integrates over all subspaces between two (Gong et al. 2012, eq. 5 and 6).

    Args:
      own: orthonormal columns [D, d] that span the source's subspace, d < D / 2.
      other: those of the target's.
    """
    left, cosines, right = np.linalg.svd(own.T @ other)
    angles = np.arccos(np.clip(cosines, -1, 1))
    flow = own @ left
    # The part of the target's directions beyond the source's subspace; at a zero angle there is none.
    beyond = other @ right.T - flow * cosines
    length = np.linalg.norm(beyond, axis=0)
    beyond = np.divide(beyond, length, out=np.zeros_like(beyond), where=length > 1e-10)
    double = np.where(angles > 1e-10, 2 * angles, 1)
    sinc = np.where(angles > 1e-10, np.sin(2 * angles) / double, 1)
    mixed = np.where(angles > 1e-10, (np.cos(2 * angles) - 1) / double, 0)
    cross = (flow * (-mixed / 2)) @ beyond.T
    first, last = (1 + sinc) / 2, (1 - sinc) / 2
    return (flow * first) @ flow.T + cross + cross.T + (beyond * last) @ beyond.T


def gfk(source: np.ndarray, target: np.ndarray, count: int = 20) -> Pair:
    """Both domains in coordinates whose distance is that of the geodesic flow kernel."""
    count = min(count, source.shape[1] // 2)
    kernel = geodesic_flow_kernel(components(source, count), components(target, count))
    values, vectors = scipy.linalg.eigh(kernel)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return source @ root, target @ root


def discrepancy(source: int, target: int) -> np.ndarray:
    """The MMD matrix of two domains [n + m, n + m], of Frobenius norm 1."""
    e = np.concatenate([np.full(source, 1 / source), np.full(target, -1 / target)])
    found = np.outer(e, e)
    return found / np.linalg.norm(found)


def joint_discrepancy(labels: np.ndarray, guessed: np.ndarray, classes: int) -> np.ndarray:
    """The matrix of JDA: `classes` times the marginal MMD, and that within each class, of Frobenius norm 1.

    Args:
      labels: of the source [n].
      guessed: pseudo-labels of the target [m].
      classes: C.
    """
    n, m = len(labels), len(guessed)
    e = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])
    found = classes * np.outer(e, e)
    for c in range(classes):
        own, other = labels == c, guessed == c
        e = np.concatenate([own / max(own.sum(), 1), -1.0 * other / max(other.sum(), 1)])
        found += np.outer(e, e)
    return found / np.linalg.norm(found)


def transfer_components(
    kernel: np.ndarray, matrix: np.ndarray, count: int, penalty: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leading solutions of (K M K^T + penalty) a = mu K H K^T a, of which TCA, JDA and TJM are made.

    Args:
      kernel: K [P, N]; features as columns are its linear form in the primal.
      matrix: M [N, N].
      count: solutions wanted.
      penalty: lambda, or the diagonal [P] that it weighs.

    Returns:
      `(embedding [N, count] of unit rows, A [P, count], mu [count] ascending)`.
    """
    centred = kernel - kernel.mean(1, keepdims=True)
    within = kernel @ matrix @ kernel.T + np.diag(np.broadcast_to(penalty, len(kernel)))
    last = len(kernel) - 1
    count = min(count, len(kernel))
    # Inverted, since K H K^T may be singular and the other is not.
    values, vectors = scipy.linalg.eigh(
        centred @ centred.T, (within + within.T) / 2, subset_by_index=(last - count + 1, last)
    )
    vectors, values = vectors[:, ::-1], values[::-1]
    with np.errstate(divide="ignore"):
        return unit_rows(kernel.T @ vectors), vectors, 1 / np.maximum(values, 0)


def tca(source: np.ndarray, target: np.ndarray, count: int = 30, penalty: float = 1.0) -> Pair:
    """Transfer component analysis, in the primal (Pan et al. 2011), on rows of length 1."""
    x = unit_rows(np.concatenate([source, target])).T
    z, _, _ = transfer_components(x, discrepancy(len(source), len(target)), count, penalty)
    return z[: len(source)], z[len(source) :]


def jda(
    source: np.ndarray,
    labels: np.ndarray,
    target: np.ndarray,
    classify: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    count: int = 30,
    penalty: float = 1.0,
    rounds: int = 10,
) -> Pair:
    """Joint distribution adaptation, in the primal (Long et al. 2013): TCA whose MMD is also within each class.

    Args:
      source: rows.
      labels: of the source [n].
      target: rows.
      classify: `(source, labels, target) -> [m]`, which makes the pseudo-labels.
      count: of components.
      penalty: lambda.
      rounds: of pseudo-labels; the first has none.
    """
    x = unit_rows(np.concatenate([source, target])).T
    matrix, classes = discrepancy(len(source), len(target)), len(np.unique(labels))
    for number in range(rounds):
        z, _, _ = transfer_components(x, matrix, count, penalty)
        mapped = z[: len(source)], z[len(source) :]
        if number < rounds - 1:
            matrix = joint_discrepancy(labels, classify(mapped[0], labels, mapped[1]), classes)
    return mapped


def tjm(source: np.ndarray, target: np.ndarray, count: int = 20, penalty: float = 1.0, rounds: int = 10) -> Pair:
    """Transfer joint matching (Long et al. 2014), linear kernel: TCA with a source reweighted by row sparsity.

    The paper's form, with 1 / (2 |a_i|) for rows of the source and the marginal MMD alone.
    """
    x = unit_rows(np.concatenate([source, target]))
    kernel, matrix = x @ x.T, discrepancy(len(source), len(target))
    weights = np.ones(len(x))
    for _ in range(rounds):
        z, a, _ = transfer_components(kernel, matrix, count, penalty * weights)
        weights[: len(source)] = 1 / (2 * np.linalg.norm(a[: len(source)], axis=1) + np.finfo(float).eps)
    return z[: len(source)], z[len(source) :]
