"""What a sequence of tasks leaves: accuracy, forgetting and transfer, of a matrix of accuracies.

Row i of the matrix [T, T] is measured after task i, column j on the test images of task j. Lopez-Paz and Ranzato 2017;
forgetting is that of Chaudhry et al. 2018, whose maximum is over the rows before the last.
"""

import numpy as np


def average_accuracy(matrix: np.ndarray) -> float:
    """Mean over the tasks after the last one."""
    return float(np.mean(matrix[-1]))


def forgetting(matrix: np.ndarray) -> float:
    """How far each task but the last has fallen from the best that it ever was before; negative if it has risen."""
    return float(np.mean(matrix[:-1, :-1].max(0) - matrix[-1, :-1]))


def backward_transfer(matrix: np.ndarray) -> float:
    """What the tasks after it have done to each task but the last: negative where it was forgotten."""
    return float(np.mean(matrix[-1, :-1] - np.diag(matrix)[:-1]))


def forward_transfer(matrix: np.ndarray, untrained: np.ndarray) -> float:
    """What each task but the first has of those before it, beyond the accuracy [T] of an untrained network."""
    return float(np.mean(np.diag(matrix, 1) - np.asarray(untrained)[1:]))
