"""RotNet: which of four rotations an image was given is predicted.

Gidaris, Singh, Komodakis 2018 (arXiv 1803.07728). As in the authors' code (gidariss/FeatureLearningRotNet), every
image is seen in all four rotations in the same batch. Rotations move whole pixels, since interpolation would give
the answer away.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.models.heads import Classifier
from ssl_jax.models.parts import apply, initialise


def rotations(images: jax.Array) -> jax.Array:
    """All four rotations of square images.

    Args:
      images: [B, S, S, C].

    Returns:
      [B, 4, S, S, C]: by 0, 90, 180 and 270 degrees, counter-clockwise.
    """
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"rotation needs square views, got {images.shape[1]}x{images.shape[2]}")
    return jnp.stack([jnp.rot90(images, k, axes=(1, 2)) for k in range(4)], 1)


@dataclasses.dataclass(frozen=True)
class Rotation(Method):
    """Four-way classification of the rotation."""

    view: View = recipes.ROTNET  # sec. 3.2 and the authors' code: crop and flip, no colour

    _head = Classifier(4)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "classifier": self._head}, rng, batch["view"])
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        x = rotations(batch["view"])
        labels = jnp.tile(jnp.arange(4), len(x))
        h, stats = apply(self.backbone, "backbone", params, state["stats"], x.reshape(-1, *x.shape[2:]), train=train)
        logits, stats = apply(self._head, "classifier", params, stats, h, train=train)
        top1 = losses.accuracy(logits, labels)
        metrics = {"rotation_top1": Metric(top1, 1 / 4)}
        aux = Aux(metrics, jax.lax.stop_gradient(h[::4]))
        return losses.cross_entropy(logits, labels), ({"stats": stats}, aux)

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Each image in another rotation, as the network sees it and turned back by its answer."""
        images, stats = batch["view"][:8], state["stats"]
        turns = np.arange(len(images)) % 4
        seen = rotations(images)[np.arange(len(images)), turns]
        h, _ = apply(self.backbone, "backbone", params, stats, seen, train=False)
        logits, _ = apply(self._head, "classifier", params, stats, h, train=False)
        answers = np.argmax(logits, -1)
        back = [np.rot90(x, -k) for x, k in zip(np.asarray(seen), answers, strict=True)]
        captions = tuple((f"{90 * k}°", f"turned back by {90 * a}°") for k, a in zip(turns, answers, strict=True))
        grid = np.stack([np.asarray(seen), np.stack(back)], 1)
        title = "Turned images, and the same turned back by the angle that the network sees in them"
        return [
            Picture(
                title, ("turned", "turned back"), np.asarray(pixels(self.view, jnp.asarray(grid)).clip(0, 1)), captions
            )
        ]

    def chance(self, info: Info) -> float:
        """Ln 4."""
        return math.log(4)
