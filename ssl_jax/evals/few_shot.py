"""Few-shot episodes: five classes with one and with five labelled images each, drawn from the test images.

Twenty classes as well where the test images are of classes that were not trained on, the protocol of Omniglot.
"""

import itertools

import numpy as np

from ssl_jax.evals import pictures
from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import few_shot
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "few-shot episodes", LABELLED, True, True

_SHOWN = 8  # queries of a class that the report shows


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
            if of == "pretrained" and (ways, shots) == (5, 1):
                _show(context, y, labels)
    return found


def _show(context: Context, x: np.ndarray, labels: np.ndarray) -> None:
    """Shows an episode of five classes with one label each: what is known, and what the queries were taken for.

    Args:
      context: what is evaluated.
      x: features [N, D] of the test images.
      labels: their classes [N].
    """
    test = context.images[1]
    support, query = few_shot.draw(labels, 5, 1, few_shot.QUERIES, 1, context.config.seed)
    rows = np.concatenate([support[0], query[0][:, :_SHOWN]], 1)
    answers = few_shot.nearest_prototype(x[support[:, :, 0]], x[rows[:, 1:].reshape(1, -1)], 5).reshape(5, -1)
    images = test.pictures(rows.reshape(-1), context.run.eval_side)
    names = [test.class_name(labels[row]) for row in support[0, :, 0]]
    captions = tuple(
        (names[i], *("" if answer == i else names[answer] for answer in answers[i])) for i in range(len(names))
    )
    title = (
        "An episode: one labelled image of each class, and images that are to be told. Under the wrong answers, these."
    )
    columns = ("label", *[""] * _SHOWN)
    context.pictures.append(pictures.grid(title, columns, images, captions))
