"""VISReg: views of an image are predicted from their mean; centre, scale and shape of the embeddings are regularised.

arXiv 2606.02572. Written from the formulas. As LeJEPA, with another regulariser: the mean of each component is held to
0 (centre), its standard deviation to 1 (scale), and random projections of the standardised embeddings, sorted, to the
quantiles of the normal distribution (shape). The standard deviation is a constant of the shape term. Unlike SIGReg,
the scale term has a gradient that spreads collapsed embeddings.

All statistics are those of the global batch, and the directions are the same whatever the number of devices, which
share the sorting between them. The authors' code gathers the batch as well, but draws other directions on each device;
the paper has each device's own rows. lightly adds 1e-4 to the deviation in the shape term alone: `std_epsilon` = 0,
`shape_epsilon` = 1e-4.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.joint.lejepa import invariance, unit_slices
from ssl_jax.methods.ranges import BelowOne, OrZero
from ssl_jax.methods.shared import crops
from ssl_jax.models.gelu import gelu
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import initialise
from ssl_jax.runtime.errors import UserError


def quantiles(rows: int) -> jax.Array:
    """Where `rows` sorted draws of a standard normal distribution are expected: its quantiles i / (rows + 1)."""
    return jax.scipy.special.ndtri(jnp.arange(1, rows + 1) / (rows + 1))


def regulariser(
    z: jax.Array,
    slices: jax.Array,
    *,
    std_epsilon: float = 1e-6,
    shape_epsilon: float = 0.0,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """The three terms of the regulariser, each the mean over views and the same on all replicas.

    Args:
      z: embeddings [V, n, D] of each view.
      slices: directions [D, K] of length one.
      std_epsilon: added to the standard deviation in the scale and the shape term.
      shape_epsilon: added to it in the shape term alone.
      axis_name: mapped axis over which the batch is spread; None for this replica's rows alone.

    Returns:
      'centre', 'scale' and 'shape', in float32 or wider.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))

    def mean(x):  # over the rows of all replicas
        x = x.mean(1, keepdims=True)
        return x if axis_name is None else jax.lax.pmean(x, axis_name)

    centre = mean(z)
    # The root of zero has an infinite slope, which times zero is not a number.
    std = jnp.sqrt(mean(jnp.square(z - centre)) + 1e-20) + std_epsilon
    standard = (z - centre) / (jax.lax.stop_gradient(std) + shape_epsilon)
    return {
        "centre": jnp.square(centre).mean(),
        "scale": jnp.square(std - 1).mean(),
        "shape": _shape(standard, slices.astype(z.dtype), axis_name),
    }


def _shape(z: jax.Array, slices: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean squared distance of sorted projections of z [V, n, D] from the quantiles; replicas share the directions."""
    count = slices.shape[1]
    own = jnp.arange(count)
    if axis_name is not None:
        z = jax.lax.all_gather(z, axis_name, axis=1, tiled=True)
        each = -(-count // jax.lax.axis_size(axis_name))
        own = jax.lax.axis_index(axis_name) * each + jnp.arange(each)
    mine = jnp.take(slices, own, axis=1, mode="clip")
    scores = jnp.sort(jnp.einsum("vnd,dk->vnk", z, mine, precision="highest"), 1)
    error = jnp.square(scores - quantiles(z.shape[1]).astype(z.dtype)[:, None]).mean((0, 1))
    total = jnp.sum(error * (own < count)) / count  # beyond the last direction there is none
    return total if axis_name is None else jax.lax.psum(total, axis_name)


@dataclasses.dataclass(frozen=True)
class VISReg(Method):
    """Variance-invariance-sketching regularisation; defaults are the README's for ViT-B/16 on ImageNet."""

    view: View = recipes.VISREG  # of the large crops
    local: View = recipes.VISREG_LOCAL
    globals: int = 4  # large crops
    locals: OrZero = 6  # small crops
    hidden: tuple[int, ...] = (2048, 2048)  # widths of the projector's hidden layers
    out: int = 256  # D, width of z
    projector_gelu: bool = True  # GELU in the projector; False: ReLU (the authors' Imagenette example)
    slices: int = 4096  # K, random directions, drawn anew for each update
    weight: float = 0.9  # lambda, of the regulariser; the invariance has 1 - lambda
    std_epsilon: float = 1e-6  # added to the standard deviation
    shape_epsilon: float = 0.0  # added to it in the shape term alone (lightly: 1e-4)
    drop_path: BelowOne = 0.1  # where the backbone has it, as ViTs do

    def views(self) -> dict[str, View]:
        return crops.views(self.view, self.local, self.globals, self.locals)

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.globals < 1 or self.globals + self.locals < 2:
            raise UserError(
                f"config.method.globals is {self.globals} and locals {self.locals}: VISReg compares views of an image, "
                "at least two, of which one is a large crop."
            )

        if self.weight > 1:
            raise UserError(
                f"config.method.weight is {self.weight:g}: it is at most 1, for the invariance has one minus it."
            )

    def _head(self) -> MLP:
        groups, dtype, curve = self.backbone.bn_groups, self.backbone.dtype, gelu if self.projector_gelu else nn.relu
        return MLP(self.hidden, self.out, True, True, bn_groups=groups, dtype=dtype, activation=curve)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, rng, batch["global1"])
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        options = {"rng": rng, "train": train, "drop_path": self.drop_path}
        h, z, stats = crops.embed(self.backbone, self._head(), params, state["stats"], self.views(), batch, **options)
        slices = unit_slices(jax.random.fold_in(rng, len(self.views())), self.out, self.slices)
        epsilons = {"std_epsilon": self.std_epsilon, "shape_epsilon": self.shape_epsilon}
        terms = regulariser(z, slices, **epsilons, axis_name=dist.AXIS)
        apart = invariance(z, self.globals)
        loss = self.weight * sum(terms.values()) + (1 - self.weight) * apart
        # Where all embeddings are the same.
        chance = {"scale": 1.0, "shape": jnp.square(quantiles(z.shape[1] * jax.lax.axis_size(dist.AXIS))).mean()}
        metrics = {name: Metric(value, chance.get(name), kind="loss") for name, value in terms.items()}
        metrics["invariance"] = Metric(apart, kind="loss")
        metrics["projection_std"] = Metric(losses.spread(z[0], dist.AXIS), kind="std")
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h[0])))

    def chance(self, info: Info) -> float:
        """Equal embeddings at zero: all of the scale, and the spread of the quantiles."""
        return self.weight * (1.0 + float(jnp.square(quantiles(info.batch_size)).mean()))
