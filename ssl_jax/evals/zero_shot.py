"""Zero-shot classification by attributes: images of classes that are left out, told apart by what is known of these.

`config.eval.attributes` is a file of comma-separated lines CLASS,NUMBER,NUMBER,... without a head, with the name of
every class and its attributes or its embedding; `config.eval.unseen` are the names of the classes that are left out,
with commas between.
"""

import csv

from etils import epath
import numpy as np

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import zero_shot
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime.errors import UserError, nearest
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "zero-shot", LABELLED, False, False
OPTIONS = {"attributes": "", "unseen": ""}  # a file; names of classes

_MOST = 20_000  # training images


def measure(context: Context) -> list[Result]:
    """Accuracy among the unseen classes of each representation, pixels included."""
    classes = context.images[0].classes
    attributes = read(context.config.eval.attributes, classes)
    names = [name for name in context.config.eval.unseen.split(",") if name]
    if unknown := [name for name in names if name not in classes]:
        raise UserError(f"--config.eval.unseen has '{unknown[0]}', which is no class. {nearest(unknown[0], classes)}")
    unseen = np.array([classes.index(name) for name in names], int)
    train_y, test_y = context.features.labels
    rows = evenly_spaced(np.arange(len(train_y)), _MOST)
    return [
        Result(f"zero_shot/{name}", value, of, chance=1 / len(unseen))
        for of, (x, y) in context.features.with_pixels().items()
        for name, value in zero_shot.zero_shot(x[rows], train_y[rows], y, test_y, attributes, unseen).items()
    ]


def read(path: str, classes: tuple[str, ...]) -> np.ndarray:
    """Attributes [K, A] of all classes in their order.

    Args:
      path: of the file.
      classes: names.

    Raises:
      UserError: there is no such file, a line is no class with as many numbers as the others, or a class is missing.
    """
    if not path:
        raise UserError("zero_shot needs --config.eval.attributes=FILE, with lines CLASS,NUMBER,NUMBER... of all.")
    try:
        lines = [line for line in csv.reader(epath.Path(path).read_text().splitlines()) if line]
        found = {name: [float(x) for x in numbers] for name, *numbers in lines}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no file of lines CLASS,NUMBER,NUMBER... ({error}): correct it.") from error
    if missing := [name for name in classes if name not in found]:
        raise UserError(f"{path} lacks the class '{missing[0]}': add a line for it.")
    if len({len(found[name]) for name in classes}) != 1 or not found[classes[0]]:
        raise UserError(f"The lines of {path} have different numbers of attributes, or none: give all as many.")
    return np.array([found[name] for name in classes])
