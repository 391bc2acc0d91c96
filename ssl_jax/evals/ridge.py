"""Few labels in closed form: ridge regression on 5, 10 and 25 images of each class, as big_vision has it."""

import numpy as np

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import ridge
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "ridge regression on few labels", LABELLED, False, True
SHOTS, DRAWS = (5, 10, 25), 3


def measure(context: Context) -> list[Result]:
    """Accuracy of each backbone, mean and deviation over draws of the labelled images."""
    train_y, test_y = context.features.labels
    found = []
    for shots in SHOTS:
        draws = [ridge.shots(train_y, shots, [context.config.seed, draw]) for draw in range(DRAWS)]
        for of, (x, y) in context.features.backbones().items():
            tops = [ridge.top1(x[rows], train_y[rows], y, test_y, context.features.classes) for rows in draws]
            spread = float(np.std(tops))
            found.append(Result(f"ridge/{shots}shot/top1", float(np.mean(tops)), of, spread=spread))
    return found
