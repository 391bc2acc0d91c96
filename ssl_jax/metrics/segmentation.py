"""Semantic segmentation: a linear classifier of the places of a map, and how right its masks are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.runtime import progress

IGNORE = 255  # pixels of this label count nowhere
LEARNING_RATE, WEIGHT_DECAY = 1e-2, 1e-3
BATCH_SIZE = 16  # images an update


class Scores(NamedTuple):
    """How right masks are, over all pixels of a data set."""

    iou: np.ndarray  # [C] intersection over union; NaN for a class that is neither there nor predicted
    miou: float  # mean of those that are numbers
    pixel_accuracy: float
    mean_accuracy: float  # mean over the classes that are there
    frequency_weighted_iou: float


def confusion(labels: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts pixels [C, C] by label (rows) and prediction.

    Args:
      labels: integers of any shape; `IGNORE` is left out.
      prediction: of the same shape.
      classes: C.
    """
    known = labels != IGNORE
    pairs = labels[known].astype(np.int64) * classes + prediction[known]
    return np.bincount(pairs.reshape(-1), minlength=classes**2).reshape(classes, classes)


def scores(counts: np.ndarray) -> Scores:
    """What a confusion matrix [C, C] comes to (Long et al. 2015, sec. 5; classes that are absent are left out)."""
    right, truth, predicted = np.diag(counts).astype(float), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore"):
        iou, recall = right / (truth + predicted - right), right / truth
    share = truth / truth.sum()
    weighted = float(np.nansum(share * iou))
    return Scores(iou, float(np.nanmean(iou)), float(right.sum() / truth.sum()), float(np.nanmean(recall)), weighted)


def upsampled(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Maps [B, h, w, C] to [B, *size, C]: bilinear, the centres of pixels half a pixel in, as torch has them."""
    return jax.image.resize(maps, (len(maps), *size, maps.shape[-1]), "bilinear", antialias=False)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the pixels that are not `IGNORE`; logits [B, H, W, C], labels [B, H, W]."""
    known = labels != IGNORE
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, labels, 0))
    return jnp.sum(losses, where=known) / jnp.maximum(known.sum(), 1)


def standardisation(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] of maps [N, h, w, D] and one over their deviation: a BatchNorm without scale, of all images at once."""
    x = maps.reshape(-1, maps.shape[-1])
    mean = x.mean(0, dtype=np.float64)
    std = np.sqrt(np.square(x - mean.astype(np.float32)).mean(0, dtype=np.float64))
    # A channel that is constant but for rounding carries nothing.
    factor = np.where(std > 1e-6 * std.max(), 1 / np.maximum(std, 1e-30), 0.0)
    return mean.astype(np.float32), factor.astype(np.float32)


class Probe:
    """A 1x1 convolution behind a standardisation: linear segmentation.

    AdamW with a cosine, whole images without augmentation, logits upsampled bilinearly to the mask's size. The map is
    the last one and the layer linear, as DINOv2 and DINOv3 measure it (their crops and longer training are left out).
    The last update counts.

    Args:
      maps: [N, h, w, D] of the training images.
      masks: [N, H, W] integers in [0, classes), or `IGNORE`.
      classes: C.
      epochs: passes over the images.
      seed: of their order.
    """

    def __init__(self, maps: np.ndarray, masks: np.ndarray, *, classes: int, epochs: int, seed: int) -> None:
        self._mean, self._factor = standardisation(maps)
        batch = min(BATCH_SIZE, len(maps))
        steps = len(maps) // batch
        rate = optax.cosine_decay_schedule(LEARNING_RATE, epochs * steps)
        optimizer = optax.adamw(rate, weight_decay=WEIGHT_DECAY)
        head = {"kernel": jnp.zeros((maps.shape[-1], classes)), "bias": jnp.zeros(classes)}

        @jax.jit
        def update(head, state, x, labels):
            grads = jax.grad(lambda head: cross_entropy(self._logits(head, x, labels.shape[1:]), labels))(head)
            moves, state = optimizer.update(grads, state, head)
            return optax.apply_updates(head, moves), state

        state, rng = optimizer.init(head), np.random.default_rng(seed)
        with progress.counted(epochs, "epochs"):
            for _ in range(epochs):
                for rows in rng.permutation(len(maps))[: steps * batch].reshape(steps, batch):
                    head, state = update(head, state, maps[rows], masks[rows].astype(np.int32))
                progress.tick()
        self._head = head
        self._answers = jax.jit(
            lambda x, size: self._logits(head, x, size).argmax(-1).astype(jnp.uint8), static_argnums=1
        )

    def _logits(self, head: dict[str, jax.Array], x: jax.Array, size: tuple[int, int]) -> jax.Array:
        x = (x - self._mean) * self._factor
        return upsampled(jnp.matmul(x, head["kernel"], precision="highest") + head["bias"], size)

    def __call__(self, maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Predicted masks uint8 [M, H, W] of maps [M, h, w, D], H and W being `size`."""
        blocks = [maps[start : start + BATCH_SIZE] for start in range(0, len(maps), BATCH_SIZE)]
        return np.concatenate([np.asarray(self._answers(block, size)) for block in blocks])
