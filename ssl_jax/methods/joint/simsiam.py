"""SimSiam: a Siamese network with a predictor and a stop-gradient, without negatives and without an EMA teacher.

Chen, He 2021 (arXiv 2011.10566). Follows the authors' code (facebookresearch/simsiam): views go through the networks
one by one; no bias before BatchNorm; the projector ends in BatchNorm without scale and offset (the code's last Linear
has a bias that is never trained, and which this BatchNorm cancels: there is none here); the predictor's learning rate
stays at its first value (its group is `predictor`), which the paper has as an option and the code recommends; weight
decay is on all parameters, those of BatchNorm too.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import Several
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise


def negative_cosine(p: jax.Array, z: jax.Array) -> jax.Array:
    """D(p, stopgrad(z)), minus the mean cosine of rows (eq. 1 and 2).

    Args:
      p: predictions [N, D].
      z: projections [N, D] of the other views; no gradient flows into them.

    Returns:
      scalar between -1 and 1.
    """
    return -jnp.mean(jnp.sum(losses.l2_normalize(p) * losses.l2_normalize(jax.lax.stop_gradient(z)), -1))


@dataclasses.dataclass(frozen=True)
class SimSiam(Method):
    """Simple Siamese networks."""

    compares = True

    view1: View = recipes.SIMSIAM  # App. A: MoCo v2's
    view2: View = recipes.SIMSIAM
    hidden: tuple[int, ...] = (2048, 2048)  # widths of the projector's hidden layers, sec. 3; CIFAR: (2048,)
    out: Several = 2048  # width of z and p
    out_norm: str = "plain"  # BatchNorm at the projector's end, without scale and offset; 'affine': with (lightly)
    bottleneck: int = 512  # hidden layer of the predictor, a quarter of `out`

    def _projector(self) -> MLP:
        bn_groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP(self.hidden, self.out, False, False, self.out_norm, bn_groups, dtype=dtype)

    def _predictor(self) -> MLP:
        bn_groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP((self.bottleneck,), self.out, bn_groups=bn_groups, dtype=dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        parts = {"backbone": self.backbone, "projector": self._projector(), "predictor": self._predictor()}
        params, stats = initialise(parts, rng, batch["view1"])
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        stats, h, z, p = state["stats"], {}, {}, {}
        for v in ("view1", "view2"):
            h[v], stats = apply(self.backbone, "backbone", params, stats, batch[v], train=train)
            z[v], stats = apply(self._projector(), "projector", params, stats, h[v], train=train)
            p[v], stats = apply(self._predictor(), "predictor", params, stats, z[v], train=train)
        loss = (negative_cosine(p["view1"], z["view2"]) + negative_cosine(p["view2"], z["view1"])) / 2  # alg. 1
        aux = Aux(
            metrics={"projection_std": Metric(losses.spread(z["view1"], dist.AXIS), kind="std")},
            features=jax.lax.stop_gradient(h["view1"]),
        )
        return loss, ({"stats": stats}, aux)

    def groups(self, params: Any) -> Any:
        labels = super().groups(params)
        return {**labels, "predictor": jax.tree.map(lambda _: "predictor", params["predictor"])}

    def chance(self, info: Info) -> float:
        """Predictions at right angles to their targets."""
        return 0.0

    def best(self, info: Info) -> float:
        """Predictions that point where their targets do, as they also do when everything has collapsed."""
        return -1.0
