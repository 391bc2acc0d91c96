"""What transfers to what: win rates and affinities of tasks (Taskonomy, Zamir et al. 2018, sec. 3.3)."""

import numpy as np

LEAST = 0.001  # win rates are clipped to [LEAST, 1 - LEAST]


def win_rates(losses: np.ndarray) -> np.ndarray:
    """Share of the images on which a source has the lower loss of two.

    Images are counted, not losses averaged: that makes targets comparable whose losses have other units.

    Args:
      losses: of each source on each image of one target [S, N].

    Returns:
      [S, S] share of the images on which the source of the row is better than that of the column; ties are halved.
    """
    a, b = losses[:, None], losses[None]
    return (a < b).mean(-1) + (a == b).mean(-1) / 2


def affinities(rates: np.ndarray) -> np.ndarray:
    """The analytic hierarchy process: the principal eigenvector of the ratios of win rates.

    Args:
      rates: win rates [S, S] of one target.

    Returns:
      affinity [S] of each source to the target; they sum to 1.
    """
    values, vectors = np.linalg.eig(ratios(rates))
    principal = np.abs(np.real(vectors[:, np.argmax(values.real)]))
    return principal / principal.sum()


def ratios(rates: np.ndarray) -> np.ndarray:
    """Win rates [S, S] by those the other way round, each clipped to [LEAST, 1 - LEAST]."""
    clipped = np.clip(rates, LEAST, 1 - LEAST)
    return clipped / clipped.T
