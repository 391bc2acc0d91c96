"""DCL and DCLW: SimCLR's loss without the positive in the denominator (decoupled contrastive learning).

Yeh, Hong, Hsu, Liu, Chen, LeCun 2022 (arXiv 2110.06848): SimCLR whose denominator lacks the positive, so that a pair
that is already near still gets its full gradient, and small batches suffice. With `sigma` the positives are weighted
as well (DCLW). The paper sums over views and images (eq. 6); this is the mean over the 2N anchors, as lightly has it.
Its weights (eq. 7) compare an image with the mean over the global batch and carry no gradient.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint.simclr import SimCLR


def positive_weights(cosines: jax.Array, *, sigma: float, axis_name: str | None = None) -> jax.Array:
    """Negative von Mises-Fisher weights 2 - exp(s / sigma) / mean(exp(s / sigma)) (eq. 7), without gradient.

    Args:
      cosines: similarities s [n] of this replica's positive pairs.
      sigma: width; the wider, the nearer all weights are to 1.
      axis_name: mapped axis over whose rows the mean is taken; None for this replica's alone.

    Returns:
      weights [n] whose mean is 1, larger for pairs that are still apart.
    """
    likely = jnp.exp((jax.lax.stop_gradient(cosines) - 1) / sigma)
    mean = likely.mean() if axis_name is None else jax.lax.pmean(likely.mean(), axis_name)
    return 2 - likely / mean


def decoupled_contrast(
    z1: jax.Array, z2: jax.Array, *, temperature: float, sigma: float = 0.0, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Decoupled contrastive loss (eq. 6), the mean over the 2n anchors of this replica.

    Each anchor has one positive (the other view of its image) and 2N - 2 negatives (both views of all other images
    of the global batch); the positive is not in the denominator. The gather is differentiable, so that averaging
    over the replicas gives the gradient of the global loss.

    Args:
      z1: projections [n, D] of the first views; normalised inside.
      z2: projections [n, D] of the second views.
      temperature: tau, divides the cosine similarities.
      sigma: width of the positives' weights; 0 for none.
      axis_name: mapped axis over which negatives are gathered; None for this replica's alone.

    Returns:
      loss (no less than ln(2N - 2) - 2 / tau), and the share of first-view anchors whose positive is the nearest.
    """
    z1, z2 = losses.l2_normalize(z1), losses.l2_normalize(z2)
    images = jnp.arange(len(z1))
    all1, all2 = z1, z2
    if axis_name is not None:
        all1, all2 = (jax.lax.all_gather(z, axis_name, tiled=True) for z in (z1, z2))
        images += jax.lax.axis_index(axis_name) * len(z1)
    own = jnp.tile(jax.nn.one_hot(images, len(all1), dtype=bool), 2)  # [n, 2N]

    def negatives(z):
        return jnp.where(own, -jnp.inf, losses.similarity(z, jnp.concatenate([all1, all2])))

    cosines, negatives1, negatives2 = jnp.sum(z1 * z2, -1), negatives(z1), negatives(z2)
    weights = positive_weights(cosines, sigma=sigma, axis_name=axis_name) if sigma else 1.0
    repulsion = (jax.nn.logsumexp(n / temperature, axis=-1) for n in (negatives1, negatives2))
    loss = jnp.mean(sum(repulsion) / 2 - weights * cosines / temperature)
    return loss, jnp.mean(cosines > negatives1.max(-1), dtype=jnp.float32)


@dataclasses.dataclass(frozen=True)
class DCL(SimCLR):
    """SimCLR with the decoupled loss; views, networks and their fields are SimCLR's."""

    scale: float = 1.0  # of the loss
    sigma: float = 0.0  # of the positives' weights, sec. 3.2; DCLW: 0.5

    def _contrast(self, z1: jax.Array, z2: jax.Array) -> tuple[jax.Array, jax.Array]:
        return decoupled_contrast(z1, z2, temperature=self.temperature, sigma=self.sigma, axis_name=dist.AXIS)

    def chance(self, info: Info) -> float:
        """All projections equal: 2N - 2 negatives as near as the positive."""
        return self.scale * math.log(2 * info.batch_size - 2)

    def best(self, info: Info) -> float:
        """Positives that are equal, at right angles to everything else."""
        return self.scale * (math.log(2 * info.batch_size - 2) - 1 / self.temperature)
