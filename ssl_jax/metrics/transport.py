"""Domain adaptation by optimal transport of the source to the target (Courty et al. 2017), on fixed features."""

import numpy as np

from ssl_jax.runtime.errors import UserError

_SMALLEST = 1e-300


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [N, M] of rows."""
    found = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.maximum(found, 0)


def plan(cost: np.ndarray, entropy: float, tolerance: float = 1e-9, most: int = 2000) -> np.ndarray:
    """The entropic transport plan between uniform masses, by Sinkhorn's iteration (Cuturi 2013).

    Args:
      cost: [n, m]; what it is measured in is what `entropy` is measured in.
      entropy: weight of the entropy.
      tolerance: largest sum of gaps between the plan's row masses and theirs at which the iteration ends.
      most: iterations.

    Returns:
      [n, m], whose columns sum to 1 / m.

    Raises:
      UserError: if `entropy` is so small beside the cost that the iteration is far from its end.
    """
    n, m = cost.shape
    # A constant of a row or of a column does not change the plan; without them less underflows.
    cost = cost - cost.min(1, keepdims=True)
    gibbs = np.exp(-(cost - cost.min(0)) / entropy)
    u = np.full(n, 1 / n)
    for number in range(most):
        v = 1 / m / np.maximum(gibbs.T @ u, _SMALLEST)
        rows = gibbs @ v
        if number % 10 == 9 and np.abs(u * rows - 1 / n).sum() < tolerance:
            break
        u = 1 / n / np.maximum(rows, _SMALLEST)
    v = 1 / m / np.maximum(gibbs.T @ u, _SMALLEST)
    found = u[:, None] * gibbs * v
    if not np.abs(found.sum(1) - 1 / n).sum() < 0.1:
        raise UserError(
            f"The transport plan cannot be computed with an entropy of {entropy:g} and costs up to {cost.max():.3g}: "
            "make the entropy larger."
        )
    return found


def class_plan(
    cost: np.ndarray, labels: np.ndarray, entropy: float, weight: float = 0.1, rounds: int = 10
) -> np.ndarray:
    """A plan that sends a target row mass of few classes: a group lasso over classes (p = 1/2), by its majorisation.

    Each round solves an entropic problem whose cost has `weight` times 1/2 (mass of the class in that column +
    1e-3)^(-1/2), with the masses of the plan before; follows `sinkhorn_lpl1_mm` of POT.

    Args:
      cost: [n, m].
      labels: of the source [n].
      entropy: weight of the entropy.
      weight: eta, of the classes.
      rounds: of the outer iteration.
    """
    penalty = np.zeros_like(cost)
    for _ in range(rounds):
        found = plan(cost + weight * penalty, entropy)
        for c in np.unique(labels):
            penalty[labels == c] = 0.5 / np.sqrt(found[labels == c].sum(0) + 1e-3)
    return found


def barycentres(found: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Where a plan [n, m] moves the rows of the source: means of target rows [n, D]."""
    return found @ target / np.maximum(found.sum(1, keepdims=True), _SMALLEST)


def transported(
    source: np.ndarray, target: np.ndarray, labels: np.ndarray | None = None, entropy: float = 0.02
) -> tuple[np.ndarray, np.ndarray]:
    """The source moved onto the target, and the target as it is.

    Args:
      source: rows [n, D].
      target: rows [m, D].
      labels: of the source, for a plan that keeps classes apart; None: without.
      entropy: in shares of the largest cost.
    """
    cost = squared_distances(source, target)
    cost /= cost.max()
    found = plan(cost, entropy) if labels is None else class_plan(cost, labels, entropy)
    return barycentres(found, target), target
