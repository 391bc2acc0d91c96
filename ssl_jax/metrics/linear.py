"""The offline linear probe: one linear layer trained on cached features of a frozen backbone."""

from collections.abc import Sequence
import functools
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
import optax

from ssl_jax.metrics.subset import stratified
from ssl_jax.runtime import progress
from ssl_jax.runtime.errors import UserError

_MOMENTUM = 0.9
_ROWS = 2**16  # of the features, standardised at a time
_HELD_OUT = 0.1  # share of each class of the training set
# Wide, in steps of half a decade: standardised features leave the number of classes, channels and steps to
# move the best rate. Neighbours on this grid differ by a few tenths of a point.
LEARNING_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Result(TypedDict):
    """What a probe found; accuracies lie in [0, 1]."""

    top1: float  # on the test set, after the last epoch of the fit to the whole training set
    learning_rate: float  # the chosen one, before scaling with the batch size
    held_out_top1: float  # on the part of the training set that chose the learning rate
    at_edge: bool  # the chosen rate is an end of the grid, so a wider grid might do better


def probe(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    test_y: ArrayLike,
    *,
    num_classes: int,
    epochs: int = 90,
    batch_size: int = 256,
    learning_rates: Sequence[float] = LEARNING_RATES,
    seed: int = 0,
) -> Result:
    """Trains a linear classifier on frozen features and measures it on the test set.

    The recipe is SimCLR's (Chen et al. 2020, appendix B.6): SGD with Nesterov momentum 0.9, no weight decay,
    learning rate times batch_size / 256, cosine decay without warm-up, a head that starts at zero. But published heads
    are trained on random crops and flips, this one on the features of one centre crop, so that its accuracies are
    comparable among themselves and not with published ones. On top:

    - Features are standardised with the mean and standard deviation of the training features. The scale of
      the features decides which learning rate is right, and scales differ between methods by orders of
      magnitude; standardised, all are searched on the same grid.
    - The learning rate is chosen on a held-out tenth of each class of the training set, never on the test
      set, and the classifier is then refitted on the whole training set. All candidates train at once. Of
      rates equally good on the held-out part the one nearest the middle of the grid is taken.
    - The last epoch counts, not the best one.

    The same seed gives the same result on the same kind of machine.

    Args:
      train_x: [N, D] features of the training images.
      train_y: [N] integers in [0, num_classes); rows labelled -1 are dropped, here and in the test set.
      test_x: [M, D] features of the test images.
      test_y: [M] integers.
      num_classes: number of classes.
      epochs: passes over the training set; the last partial batch of each is dropped.
      batch_size: rows per step; limited to the size of the training set.
      learning_rates: candidates, before scaling with the batch size.
      seed: of the held-out part and of the order of the batches.

    Returns:
      The accuracies, the chosen learning rate and whether it is at the edge of the grid.

    Raises:
      UserError: shapes or labels do not fit, a feature is not finite, there is nothing to train or test on,
        or no class has two training images, so that none can be held out.
    """
    train_x, train_y, test_x, test_y = both_labelled(train_x, train_y, test_x, test_y, num_classes)
    rates = np.sort(np.asarray(learning_rates, float))
    if epochs < 1 or batch_size < 1 or not len(rates) or not rates[0] > 0:
        raise UserError(
            f"The probe got epochs={epochs}, batch_size={batch_size}, learning_rates={learning_rates}; make "
            "them positive and give at least one rate."
        )
    train_x, test_x = standardise(train_x, test_x)
    held_out = held_out_part(train_y, seed)
    choose_key, refit_key = jax.random.split(jax.random.key(seed))

    rest_x, rest_y = train_x[~held_out], train_y[~held_out]
    with progress.counted(2 * epochs, "epochs"):
        fit = functools.partial(_fit, num_classes=num_classes, epochs=epochs, told=progress.shown())
        heads = fit(rest_x, rest_y, rates, choose_key, batch_size=min(batch_size, len(rest_x)))
        held_out_top1 = _accuracy(heads, train_x[held_out], train_y[held_out])
        best = choose(held_out_top1)
        head = fit(train_x, train_y, rates[best : best + 1], refit_key, batch_size=min(batch_size, len(train_x)))
        top1 = float(_accuracy(head, test_x, test_y)[0])
        jax.effects_barrier()  # the last ticks
    return {
        "top1": top1,
        "learning_rate": float(rates[best]),
        "held_out_top1": float(held_out_top1[best]),
        "at_edge": len(rates) > 1 and best in (0, len(rates) - 1),
    }


def both_labelled(
    train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, test_y: ArrayLike, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A probe's four arguments, checked: features [N, D] and [M, D] as float32, without the rows labelled -1.

    Raises:
      UserError: shapes or labels do not fit, a set has no labelled row, or a feature is not finite.
    """
    train_x, train_y = labelled("training", train_x, train_y, num_classes)
    test_x, test_y = labelled("test", test_x, test_y, num_classes)
    if train_x.shape[1] != test_x.shape[1]:
        raise UserError(
            f"The probe's training features have {train_x.shape[1]} channels but its test features "
            f"{test_x.shape[1]}; extract both with the same model."
        )
    return train_x, train_y, test_x, test_y


def labelled(which: str, x: ArrayLike, y: ArrayLike, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] as float32 and labels [N], without the rows labelled -1; `which` names them in errors.

    Raises:
      UserError: shapes or labels do not fit, no row has a label, or a feature is not finite.
    """
    x, y = np.asarray(x, np.float32), np.asarray(y)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise UserError(
            f"The probe needs {which} features [N, D] and labels [N], not {x.shape} and {y.shape}; "
            "flatten the features and give one label for each row."
        )
    known = y >= 0
    if not known.all():  # a copy, of what may be most of the memory
        x, y = x[known], y[known]
    if not len(y):
        raise UserError(f"The probe's {which} set has no labelled row; give it labels other than -1.")
    if y.max() >= num_classes:
        raise UserError(
            f"The probe's {which} labels go up to {y.max()}, but num_classes is {num_classes}; set it to the "
            "largest label plus one."
        )
    if not np.isfinite(x).all():
        raise UserError(f"The probe's {which} features contain NaN or infinity; look at the model that extracted them.")
    return x, y


def standardise(train_x: np.ndarray, test_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets with the mean and standard deviation of the training features taken out, channel by channel."""
    mean = train_x.mean(0, dtype=np.float64)
    std = np.sqrt(sum(np.square(part - mean).sum(0) for part in _parts(train_x)) / len(train_x))
    # A channel that is constant but for rounding (a dead ReLU) carries nothing: do not blow its noise up.
    std = np.where(std > 1e-6 * std.max(), std, np.inf)
    found = []
    for x in (train_x, test_x):
        out = np.empty(x.shape, np.float32)
        for part, new in zip(_parts(x), _parts(out), strict=True):
            new[:] = (part - mean) / std
        found.append(out)
    return found[0], found[1]


def _parts(x: np.ndarray) -> list[np.ndarray]:
    """The rows of x, some at a time: a whole data set in float64 may not fit."""
    return [x[start : start + _ROWS] for start in range(0, len(x), _ROWS)]


def held_out_part(labels: np.ndarray, seed: int) -> np.ndarray:
    """The hold-out that chooses a learning rate: a tenth of each class, at least one image, but never its only one.

    Args:
      labels: [N].
      seed: of the draw.

    Returns:
      bool [N].

    Raises:
      UserError: if no class has two images.
    """
    mask = stratified(labels, _HELD_OUT, seed)
    if not mask.any():
        raise UserError("The probe holds out training images to choose by, but no class has two; label more images.")
    return mask


def choose(accuracies: np.ndarray) -> int:
    """Returns the index of the best accuracy; of equal ones that nearest the middle of the grid."""
    best = np.flatnonzero(accuracies == accuracies.max())
    return int(best[np.argmin(np.abs(best - (len(accuracies) - 1) / 2))])


@functools.partial(jax.jit, static_argnames=("num_classes", "epochs", "batch_size", "told"))
def _fit(x, y, rates, key, *, num_classes, epochs, batch_size, told=False):
    """Trains one head for each rate, all on the same batches: weights [L, D, C] and biases [L, C]."""
    steps = len(x) // batch_size
    cosine = optax.cosine_decay_schedule(batch_size / 256, epochs * steps)

    def loss(head, rows, labels):
        logits = jnp.matmul(rows, head[0], precision="highest") + head[1]  # [B, C]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def train(rate):
        sgd = optax.sgd(lambda count: rate * cosine(count), momentum=_MOMENTUM, nesterov=True)

        def step(carry, rows):
            head, velocity = carry
            updates, velocity = sgd.update(jax.grad(loss)(head, x[rows], y[rows]), velocity)
            return (optax.apply_updates(head, updates), velocity), None

        def epoch(carry, key):
            if told:
                jax.debug.callback(progress.tick)
            order = jax.random.permutation(key, len(x))[: steps * batch_size]
            return jax.lax.scan(step, carry, order.reshape(steps, batch_size))

        head = jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes)
        (head, _), _ = jax.lax.scan(epoch, (head, sgd.init(head)), jax.random.split(key, epochs))
        return head

    return jax.vmap(train)(rates)


def _accuracy(heads, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns [L] accuracies."""
    return np.stack([((x @ w + b).argmax(1) == y).mean() for w, b in zip(*map(np.asarray, heads), strict=True)])
