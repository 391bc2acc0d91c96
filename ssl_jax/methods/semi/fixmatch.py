"""FixMatch: confident answers to a weak view are the labels of a strong view of the same image.

Sohn et al. 2020 (arXiv 2001.07685). The class of the highest probability in the weak view, where that is at least
0.95, is the label of the strong one; the loss is the mean over all unlabelled images, those below counted as zero.
Follows the authors' code (google-research/fixmatch): labelled, weak and strong images go through the network together,
weak views get no gradient, weights are evaluated as their moving average. Decisions:

- `over='kept'` divides by the images that are kept, as some ports do;
- the strong view is affine, photometric and colour changes of random strength, and a hole (Cutout) of half the side at
  a random place, in the place of RandAugment's choice of two of fourteen operations; holes have the mean colour;
- the decay of the moving average is lower in early updates; theirs is not, and 2^20 updates forget the start.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Metric
from ssl_jax.methods.shared.few_labels import SemiSupervised
from ssl_jax.runtime.errors import UserError

STRONG = dataclasses.replace(
    recipes.ROTNET_CIFAR,
    affine=0.8,
    degrees=30.0,
    translate=0.3,
    shear=17.0,
    photometric=0.5,
    jitter=0.8,
    brightness=0.9,
    contrast=0.9,
    saturation=0.9,
    order=("affine", "crop", "flip", "photometric", "jitter"),
)


def fixmatch_loss(
    weak: jax.Array, strong: jax.Array, threshold: float, *, over: str = "all", axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of strong views with the confident answers to weak ones, and which images [n] have such.

    Args:
      weak: logits [n, K]; no gradient flows into them.
      strong: logits [n, K].
      threshold: of the highest probability, which has to reach it.
      over: 'all': the mean over all images; 'kept': over those that have an answer.
      axis_name: mapped axis over which images are counted; None for this replica alone. The mean over replicas of the
        loss is that of the global batch.
    """
    weak = jax.lax.stop_gradient(weak)
    kept = jax.nn.softmax(weak).max(-1) >= threshold
    found = optax.softmax_cross_entropy_with_integer_labels(strong, jnp.argmax(weak, -1))
    if over == "kept":
        return losses.mean_where(found, kept, axis_name), kept
    return jnp.mean(found * kept), kept


def cutout(keys: jax.Array, images: jax.Array, share: float) -> jax.Array:
    """Images [n, H, W, C] with a square of that share of the side set to zero, its centre anywhere; keys [n]."""
    height, width = images.shape[1:3]

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        row, column = jax.random.uniform(key, (2,)) * jnp.array([height, width])
        inside = jnp.abs(jnp.arange(height) + 0.5 - row)[:, None] < share * height / 2
        inside &= jnp.abs(jnp.arange(width) + 0.5 - column) < share * width / 2
        return jnp.where(inside[..., None], 0.0, image)

    return jax.vmap(one)(keys, images)


@dataclasses.dataclass(frozen=True)
class FixMatch(SemiSupervised):
    """Labels of weak views for strong ones."""

    strong: View = STRONG  # sec. 2.3
    hole: float = 0.5  # side of the hole in the strong view, share of the image's; 0: none
    ratio: int = 7  # mu, tab. 4
    ramp: float = 0.0  # sec. 2.2: the threshold does as much
    threshold: float = 0.95  # tau
    over: str = "all"  # or 'kept'

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.over not in ("all", "kept"):
            raise UserError(f"config.method.over is '{self.over}': use 'all' or 'kept'.")
        if not 0 <= self.hole < 1 or not 0 <= self.threshold <= 1:
            raise UserError(
                f"config.method.hole is {self.hole} and threshold {self.threshold}: the first is at least 0 and below "
                "1, the second from 0 to 1."
            )
        if self.strong.size != self.view.size:
            raise UserError(
                f"config.method.strong.size is {self.strong.size} and view.size {self.view.size}: they go through the "
                "network together, so make them equal."
            )

    def _unlabelled_images(self, part, rng):
        strong = part["strong"]
        if self.hole:
            strong = cutout(dist.example_keys(rng, part["position"]), strong, self.hole)
        return [part["view"], strong]

    def _unlabelled_loss(self, answers, state, part, info, train):
        del info, train
        weak, strong = answers
        loss, kept = fixmatch_loss(weak, strong, self.threshold, over=self.over, axis_name=dist.AXIS)
        right = jnp.argmax(weak, -1) == part["label"]
        metrics = {
            "kept": Metric(kept.mean(dtype=jnp.float32), kind="value"),
            "unlabelled_top1": Metric(right.mean(dtype=jnp.float32), kind="value"),
            "kept_top1": Metric(losses.mean_where(right.astype(jnp.float32), kept, dist.AXIS), kind="value"),
        }
        return loss, state, metrics
