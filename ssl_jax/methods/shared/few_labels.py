"""Which labels are known where few of them are to be: semi-supervised learning."""

import numpy as np


def labelled_rows(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Images whose labels are known: the same share of each class, and the same images in every run.

    A larger fraction has the images of a smaller one, and others.

    Args:
      labels: int [N], -1 where there is none.
      fraction: of each class, rounded to whole images, at least one.

    Returns:
      rows [n], int64, in rising order.
    """
    # A generator whose stream NumPy keeps as it is.
    draw = np.random.RandomState(0)
    chosen = [np.zeros(0, np.int64)]
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        chosen.append(draw.permutation(rows)[: max(1, round(fraction * len(rows)))])
    return np.sort(np.concatenate(chosen))
