"""Deep CORAL: domain adaptation that gives the features of two domains one covariance.

Sun and Saenko 2016 (arXiv 1607.01719). The cross-entropy of the source's labels, plus |C_s - C_t|^2 / (4 d^2) of the
covariances C of a layer of d units, over n - 1, in the batch (eq. 1). Follows the authors' layer for Caffe, which they
put on the class logits. Decisions:

- the weight is constant; the authors choose it so that both losses are equal at the end, .8 for A to W of Office-31;
- both halves go through the network together;
- covariances are those of all rows of all devices.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.methods.contract import Aux, Metric
from ssl_jax.methods.shared.two_domains import TwoDomains
from ssl_jax.models.parts import apply
from ssl_jax.runtime.errors import UserError


def covariance(x: jax.Array) -> jax.Array:
    """Covariance [D, D] of rows, over n - 1."""
    x = (x - x.mean(0)).T
    return losses.similarity(x, x) / (x.shape[1] - 1)


def coral(source: jax.Array, target: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Squared Frobenius distance of the covariances of two sets of rows, over 4 D^2.

    The gather is differentiable, so that averaging over the replicas gives the gradient of the global loss.

    Args:
      source: [n, D].
      target: [m, D].
      axis_name: mapped axis over which rows are gathered; None for this replica's alone.
    """
    if axis_name is not None:
        source, target = (jax.lax.all_gather(x, axis_name, tiled=True) for x in (source, target))
    gap = covariance(source) - covariance(target)
    return jnp.sum(gap * gap) / (4 * source.shape[1] ** 2)


@dataclasses.dataclass(frozen=True)
class DeepCORAL(TwoDomains):
    """Labels of the source, and one covariance for source and target."""

    layer: str = "logits"  # whose covariance: 'features' or 'logits'
    weight: float = 0.8  # of the distance; the authors' file for A to W of Office-31

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.layer not in ("features", "logits"):
            raise UserError(f"config.method.layer is '{self.layer}': use 'features' or 'logits'.")

    def adaptation(self, params, state, batch, *, rng, step, info, train=True):
        del rng, step
        h, count, stats = self.features(params, state["stats"], batch, train)
        logits, stats = apply(self.classifier(info), "classifier", params, stats, h, train=train)
        labels = batch["source"]["label"]
        label_loss, metrics = self.label_metrics(logits[:count], labels, info)
        seen = (h if self.layer == "features" else logits).astype(jnp.float32)
        apart = coral(seen[:count], seen[count:], dist.AXIS)
        metrics["covariance_distance"] = Metric(apart, kind="value")
        aux = Aux(metrics, jax.lax.stop_gradient(h[:count]), labels)
        return label_loss + self.weight * apart, ({"stats": stats}, aux)
