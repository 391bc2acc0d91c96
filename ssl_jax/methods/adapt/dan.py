"""DAN: domain adaptation that makes the features of two domains alike, in maximum mean discrepancy.

Long et al. 2015 (arXiv 1502.02791). The cross-entropy of the source's labels, plus the MMD between the halves of the
batch in several layers, under a sum of five Gaussian kernels. Follows the estimator that the authors' later code and
its ports share (jindongwang/transferlearning): the biased one, kernels of bandwidths sigma 2^i, i = -2..2, with sigma
the mean squared distance between different rows of the batch. Decisions:

- sigma is a constant of the gradient, as in Transfer-Learning-Library; the first code differentiates through it;
- the layers are the backbone's features and the class logits, where the paper has the last three of AlexNet;
- the weight rises over the run, 2 / (1 + exp(-10 p)) - 1, as DeepDA has it;
- both halves go through the network together;
- all rows of all devices are compared: the MMD of the batch is not the mean of those of its parts.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.methods.contract import Aux, Metric
from ssl_jax.methods.shared.two_domains import TwoDomains, ramp
from ssl_jax.models.parts import apply
from ssl_jax.runtime.errors import UserError

LAYERS = ("features", "logits", "both")


def mmd(source: jax.Array, target: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Squared MMD of two sets of rows, biased, under five Gaussian kernels whose bandwidth has no gradient.

    The gather is differentiable, so that averaging over the replicas gives the gradient of the global loss.

    Args:
      source: [n, D].
      target: [n, D].
      axis_name: mapped axis over which rows are gathered; None for this replica's alone.
    """
    if axis_name is not None:
        source, target = (jax.lax.all_gather(x, axis_name, tiled=True) for x in (source, target))
    x = jnp.concatenate([source, target])
    squares = jnp.sum(x * x, -1)
    distance = jnp.maximum(squares[:, None] + squares - 2 * losses.similarity(x, x), 0.0)
    count = len(x)
    mean = jax.lax.stop_gradient(distance.sum() / (count**2 - count))
    bandwidth = jnp.maximum(mean, 1e-12)  # all rows may be one point
    kernel = jnp.exp(-distance / (bandwidth * 2.0 ** jnp.arange(-2, 3)[:, None, None])).sum(0)
    n = len(source)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - kernel[:n, n:].mean() - kernel[n:, :n].mean()


@dataclasses.dataclass(frozen=True)
class DAN(TwoDomains):
    """Labels of the source, and the maximum mean discrepancy of source and target."""

    layer: str = "both"  # in which the domains are compared: 'features', 'logits', or the sum of 'both'
    weight: float = 1.0  # of the discrepancy, at the end of the run

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.layer not in LAYERS:
            raise UserError(f"config.method.layer is '{self.layer}': use 'features', 'logits' or 'both'.")

    def adaptation(self, params, state, batch, *, rng, step, info, train=True):
        del rng
        h, count, stats = self.features(params, state["stats"], batch, train)
        logits, stats = apply(self.classifier(info), "classifier", params, stats, h, train=train)
        labels = batch["source"]["label"]
        label_loss, metrics = self.label_metrics(logits[:count], labels, info)
        layers = {"features": h, "logits": logits}
        seen = [x.astype(jnp.float32) for name, x in layers.items() if self.layer in (name, "both")]
        apart = sum(mmd(x[:count], x[count:], dist.AXIS) for x in seen)
        weight = self.weight * ramp(step / info.total_steps)
        metrics["discrepancy"] = Metric(apart, kind="value")
        aux = Aux(metrics, jax.lax.stop_gradient(h[:count]), labels)
        return label_loss + weight * apart, ({"stats": stats}, aux)
