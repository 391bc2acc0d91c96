"""Pseudo-labels: the network's own confident answers are taken for the labels of unlabelled images.

Lee 2013 (Pseudo-label: the simple and efficient semi-supervised learning method for deep neural networks), as the
baseline of FixMatch has it (google-research/fixmatch, pseudo_label.py): cross-entropy with the class of the highest
probability where that is above a threshold, the mean over all unlabelled images, those below it counted as zero. The
label is of the same logits, which get the gradient. Lee takes all answers (`threshold=0`) and a weight that rises to 3.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from ssl_jax import losses
from ssl_jax.methods.contract import Metric
from ssl_jax.methods.shared.few_labels import SemiSupervised
from ssl_jax.runtime.errors import UserError


def pseudo_label_loss(logits: jax.Array, threshold: float) -> tuple[jax.Array, jax.Array]:
    """Mean over all rows of the cross-entropy with their own answers, and which rows [n] are above the threshold.

    Args:
      logits: [n, K].
      threshold: of the highest probability, which has to be above it.
    """
    kept = jax.lax.stop_gradient(jax.nn.softmax(logits).max(-1)) > threshold
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.argmax(logits, -1))
    return jnp.mean(loss * kept), kept


@dataclasses.dataclass(frozen=True)
class PseudoLabel(SemiSupervised):
    """Labels that the network gives itself."""

    ramp_shape: ClassVar[str] = "linear"

    threshold: float = 0.95  # of the highest probability

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if not 0 <= self.threshold < 1:
            raise UserError(f"config.method.threshold is {self.threshold}: it is at least 0 and below 1.")

    def _unlabelled_loss(self, answers, state, part, info, train):
        del info, train
        loss, kept = pseudo_label_loss(answers[0], self.threshold)
        right = Metric(losses.accuracy(answers[0], part["label"]), kind="value")
        return loss, state, {"kept": Metric(kept.mean(dtype=jnp.float32), kind="value"), "unlabelled_top1": right}
