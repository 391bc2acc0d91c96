"""Barlow Twins: the cross-correlation of two views' embeddings is driven to the identity (redundancy reduction).

Zbontar, Jing, Misra, LeCun, Deny 2021 (arXiv 2103.03230). Follows the authors' code (facebookresearch/barlowtwins
main.py): both terms are sums over the entries of C, not means; the BatchNorm without parameters that stands before C
is part of the loss, with the statistics of the global batch and the biased variance plus 1e-5; views go through the
network one by one; no linear layer of the projector has a bias.

The authors sum C over W = 32 GPUs without gradient, and their data parallelism then averages: what they apply is
1 / W of the gradient. Here it is exact. LARS does not see the scale of a weight's gradient, but biases and norms
take the plain rate, and theirs (.0048) belongs to 1 / W: the ImageNet preset divides it by 32.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise


def standardize(z: jax.Array, *, axis_name: str | None = None, epsilon: float = 1e-5) -> jax.Array:
    """Columns of z [n, D] with mean 0 and (biased) variance 1 over the global batch: BatchNorm without parameters.

    Args:
      z: projections of this replica's rows.
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.
      epsilon: added to the variance.

    Returns:
      [n, D], float32 or wider; a constant column becomes zero.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    z = z - _mean(z.mean(0), axis_name)
    return z * jax.lax.rsqrt(_mean(jnp.square(z).mean(0), axis_name) + epsilon)


def cross_correlation(z1: jax.Array, z2: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """C (eq. 2): correlation [D, D] of the components of z1 with those of z2 [n, D] over the global batch."""
    z1, z2 = (standardize(z, axis_name=axis_name) for z in (z1, z2))
    return _mean(losses.similarity(z1.T, z2.T) / len(z1), axis_name)


def barlow_twins_loss(
    z1: jax.Array, z2: jax.Array, *, lambd: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Sum of (1 - C_ii)^2, and lambda times the sum of C_ij^2 for i != j (eq. 1).

    The sum of C over the replicas is differentiable, so that averaging over them gives the exact gradient.

    Args:
      z1: projections [n, D] of the first views.
      z2: projections [n, D] of the second views.
      lambd: lambda, weight of the redundancy term.
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.

    Returns:
      loss, the same on all replicas, and C [D, D].
    """
    c = cross_correlation(z1, z2, axis_name=axis_name)
    on_diagonal = jnp.sum(jnp.square(jnp.diagonal(c) - 1))
    off_diagonal = jnp.sum(jnp.square(c * (1 - jnp.eye(len(c), dtype=c.dtype))))
    return on_diagonal + lambd * off_diagonal, c


def _mean(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


@dataclasses.dataclass(frozen=True)
class BarlowTwins(Method):
    """Barlow Twins."""

    view1: View = recipes.BARLOW_TWINS[0]  # sec. 2.2
    view2: View = recipes.BARLOW_TWINS[1]
    hidden: tuple[int, ...] = (8192, 8192)  # widths of the projector's hidden layers, sec. 2.2
    out: int = 8192  # D, width of z
    lambd: float = 0.0051  # lambda, sec. 2.2
    scale: float = 1.0  # of the loss, which is about D at the start (solo-learn: 0.1)

    def _head(self) -> MLP:
        bn_groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP(self.hidden, self.out, False, False, bn_groups=bn_groups, dtype=dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, rng, batch["view1"])
        return params, {"stats": stats}

    def embed(self, params, state, batch, *, rng, step, info, train=True):
        stats, h, z = state["stats"], {}, {}
        for v in ("view1", "view2"):
            h[v], stats = apply(self.backbone, "backbone", params, stats, batch[v], train=train)
            z[v], stats = apply(self._head(), "projector", params, stats, h[v], train=train)
        return (z["view1"], z["view2"]), ({"stats": stats}, Aux({}, jax.lax.stop_gradient(h["view1"])))

    def compare(self, embeddings: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, dict[str, Any]]:
        z1, z2 = embeddings
        loss, c = barlow_twins_loss(z1, z2, lambd=self.lambd, axis_name=dist.AXIS)
        squares = jnp.sum(jnp.square(c)) - jnp.sum(jnp.square(jnp.diagonal(c)))
        metrics = {
            # Of a component with itself in the other view; 1 is best.
            "correlation": Metric(jnp.diagonal(c).mean(), kind="value"),
            # With others, root mean square.
            "redundancy": Metric(jnp.sqrt(squares / float(max(self.out * (self.out - 1), 1))), kind="value"),
            "projection_std": Metric(losses.spread(z1, dist.AXIS), kind="std"),
        }
        return self.scale * loss, metrics

    def groups(self, params: Any) -> Any:
        """Biases and norms ('vectors') have a learning rate of their own."""
        labels = super().groups(params)
        return jax.tree.map(lambda x, label: "vectors" if label == "default" and x.ndim == 1 else label, params, labels)

    def chance(self, info: Info) -> float:
        """Constant projections, whose C is zero: D."""
        return self.scale * self.out
