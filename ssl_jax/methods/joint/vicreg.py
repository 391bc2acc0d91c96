"""VICReg: variance, invariance and covariance of two views' embeddings (regularisation instead of negatives).

Bardes, Ponce, LeCun 2021 (arXiv 2105.04906). Follows the authors' code (facebookresearch/vicreg main_vicreg.py) where
the paper differs: the variance terms of the two branches are averaged (eq. 6 adds them, as solo-learn does; that is
`std_coeff` doubled), and invariance is the mean over all entries (eq. 5 adds the components up). Invariance is over
each replica's rows, variance and covariance over the global batch, with gradient. Views go through the network one by
one; hidden layers of the expander have a bias, its output none.
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

EPSILON = 1e-4  # added to the variance inside the root, eq. 2


def covariance(z: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Unbiased covariance [D, D] of the columns of z [n, D] over the global batch (eq. 3), in float32 or wider.

    Args:
      z: embeddings of this replica's rows.
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    mean, rows = z.mean(0), len(z)
    if axis_name is not None:
        mean, rows = jax.lax.pmean(mean, axis_name), rows * jax.lax.axis_size(axis_name)
    z = z - mean
    products = losses.similarity(z.T, z.T)
    if axis_name is not None:
        products = jax.lax.psum(products, axis_name)
    return products / max(rows - 1, 1)


def vicreg_loss(
    z1: jax.Array,
    z2: jax.Array,
    *,
    sim_coeff: float = 25.0,
    std_coeff: float = 25.0,
    cov_coeff: float = 1.0,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sum of invariance, variance and covariance (eq. 6), in the scaling of the authors' code.

    Args:
      z1: embeddings [n, D] of the first views; not normalised.
      z2: embeddings [n, D] of the second views.
      sim_coeff: lambda, weight of the mean squared difference of this replica's entries (eq. 5, divided by D).
      std_coeff: mu, weight of the hinge 1 - standard deviation (eq. 1), the mean over components and branches.
      cov_coeff: nu, weight of the squared off-diagonal covariances over D (eq. 4), the sum of both branches.
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.

    Returns:
      loss, the mean over this replica's rows where it is one, and the three terms without their weights.
    """
    wide = jnp.promote_types(z1.dtype, jnp.float32)
    invariance = jnp.mean(jnp.square(z1.astype(wide) - z2.astype(wide)))
    variance, redundancy = [], []
    for z in (z1, z2):
        c = covariance(z, axis_name=axis_name)
        variance.append(jax.nn.relu(1 - jnp.sqrt(jnp.diagonal(c) + EPSILON)).mean())
        redundancy.append(jnp.sum(jnp.square(c * (1 - jnp.eye(len(c), dtype=c.dtype)))) / len(c))
    terms = {
        "invariance": invariance,
        "variance": (variance[0] + variance[1]) / 2,
        "covariance": redundancy[0] + redundancy[1],
    }
    loss = sim_coeff * terms["invariance"] + std_coeff * terms["variance"] + cov_coeff * terms["covariance"]
    return loss, terms


@dataclasses.dataclass(frozen=True)
class VICReg(Method):
    """Variance-invariance-covariance regularization."""

    view1: View = recipes.VICREG[0]  # App. C.1
    view2: View = recipes.VICREG[1]
    hidden: tuple[int, ...] = (8192, 8192)  # widths of the expander's hidden layers, sec. 4.2
    out: int = 8192  # D, width of z
    sim_coeff: float = 25.0  # lambda, weight of the invariance, sec. 4.2
    std_coeff: float = 25.0  # mu, weight of the variance averaged over branches
    cov_coeff: float = 1.0  # nu, weight of the covariance

    def _head(self) -> MLP:
        bn_groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP(self.hidden, self.out, True, False, bn_groups=bn_groups, dtype=dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "expander": self._head()}, rng, batch["view1"])
        return params, {"stats": stats}

    def embed(self, params, state, batch, *, rng, step, info, train=True):
        stats, h, z = state["stats"], {}, {}
        for v in ("view1", "view2"):
            h[v], stats = apply(self.backbone, "backbone", params, stats, batch[v], train=train)
            z[v], stats = apply(self._head(), "expander", params, stats, h[v], train=train)
        return (z["view1"], z["view2"]), ({"stats": stats}, Aux({}, jax.lax.stop_gradient(h["view1"])))

    def compare(self, embeddings: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, dict[str, Any]]:
        z1, z2 = embeddings
        weights = {"sim_coeff": self.sim_coeff, "std_coeff": self.std_coeff, "cov_coeff": self.cov_coeff}
        loss, terms = vicreg_loss(z1, z2, **weights, axis_name=dist.AXIS)
        metrics = {name: Metric(term, kind="loss") for name, term in terms.items()}
        return loss, {**metrics, "projection_std": Metric(losses.spread(z1, dist.AXIS), kind="std")}

    def chance(self, info: Info) -> float:
        """Constant embeddings: all that is left is the hinge, 0.99 (24.75 with the default weights)."""
        return self.std_coeff * (1 - EPSILON**0.5)
