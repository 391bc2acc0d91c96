"""Few-shot episodes: five classes with one and with five labelled images each, drawn from the test images.

Twenty classes as well where the test images are of classes that were not trained on, the protocol of Omniglot.
"""

import itertools

import numpy as np

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import few_shot
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "few-shot episodes", LABELLED, True, True


def measure(context: Context) -> list[Result]:
    """Accuracy of each representation, pixels included, by each classifier."""
    found = []
    labels = context.features.labels[1]
    for most, shots in itertools.product((5, 20) if context.images[1].card.new_classes else (5,), (1, 5)):
        ways = min(most, len(few_shot.classes_with(labels, shots + few_shot.QUERIES)))
        if ways < 2:
            print(f"few_shot: {shots} shots skipped, too few classes have {shots + few_shot.QUERIES} test images")
            continue
        for of, (x, y) in context.features.with_pixels().items():
            centre = x.mean(0, dtype=np.float64)
            scores = few_shot.few_shot(y, labels, ways=ways, shots=shots, centre=centre, seed=context.config.seed)
            for name, (mean, half) in scores.items():
                measure = f"few_shot/{ways}way_{shots}shot/{name}"
                found.append(Result(measure, mean, of, chance=1 / ways, spread=half))
    return found
