"""MoCo v3: contrastive learning with the batch's keys from a momentum (EMA) encoder, for vision transformers.

Chen, Xie, He 2021 (arXiv 2104.02057). Follows the authors' code (facebookresearch/moco-v3): the loss has the factor
2T of the pseudocode (alg. 1); the key network has no predictor, moves before it computes keys, and its BatchNorm
statistics come from its own forward passes; dense layers have no bias, and the last BatchNorm neither scale nor offset.
There is none after the ResNet's predictor. A ViT's patch projection stays at its random start (sec. 4.2,
config.model.fixed_patch).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.joint.byol import target_decay
from ssl_jax.methods.ranges import Positive, Several, Share
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise


def contrast(
    q: jax.Array, k: jax.Array, *, temperature: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """InfoNCE of queries against the keys of all images in the batch, times 2T (alg. 1, `ctr`), the mean over rows.

    Args:
      q: queries [n, D] of one view; normalised inside.
      k: keys [n, D] of the other view; normalised inside, no gradient flows into them.
      temperature: T, divides the cosine similarities.
      axis_name: mapped axis over which keys are gathered; None for this replica's alone.

    Returns:
      loss, and the share of queries whose own key is the nearest.
    """
    q, k = losses.l2_normalize(q), losses.l2_normalize(jax.lax.stop_gradient(k))
    own = jnp.arange(len(q))
    loss, top1 = losses.in_batch_softmax(q, k, own, temperature=temperature, axis_name=axis_name)
    return 2 * temperature * loss, top1


@dataclasses.dataclass(frozen=True)
class MoCoV3(Method):
    """Momentum contrast, version 3; defaults are those of ResNet-50."""

    compares = True

    view1: View = recipes.MOCO_V3_RESNET[0]  # ViT: MOCO_V3_VIT
    view2: View = recipes.MOCO_V3_RESNET[1]
    layers: int = 2  # of the projector; ViT: 3
    hidden: int = 4096  # width of the hidden layers of projector and predictor
    out: Several = 256  # width of q and k
    predictor_norm: bool = False  # BatchNorm at the end of the predictor; ViT: True
    temperature: Positive = 1.0  # T; ViT: 0.2
    tau: Share = 0.99  # m, base key decay; ResNet-50 for 1000 epochs: 0.996

    def _projector(self) -> MLP:
        return self._mlp(self.layers, "plain")

    def _predictor(self) -> MLP:
        return self._mlp(2, "plain" if self.predictor_norm else "none")

    def _mlp(self, layers: int, norm: str) -> MLP:
        bn_groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP((self.hidden,) * (layers - 1), self.out, False, False, norm, bn_groups, dtype=dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        parts = {"backbone": self.backbone, "projector": self._projector(), "predictor": self._predictor()}
        params, stats = initialise(parts, rng, batch["view1"])
        key = {"params": params, "stats": stats}
        return params, {"stats": stats, "key": {k: _without_predictor(v) for k, v in key.items()}}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        stats, xi_stats = state["stats"], state["key"]["stats"]
        h, q, k = {}, {}, {}
        for v in ("view1", "view2"):
            h[v], stats = apply(self.backbone, "backbone", params, stats, batch[v], train=train)
            z, stats = apply(self._projector(), "projector", params, stats, h[v], train=train)
            q[v], stats = apply(self._predictor(), "predictor", params, stats, z, train=train)
        # Moved once an update, or with config.accumulate once a micro-batch, as all state that `loss` returns; with the
        # cosine over fractional epochs, which is one over updates.
        tau = target_decay(self.tau, step, info.total_steps)
        theta = _without_predictor(jax.lax.stop_gradient(params))
        xi = optax.incremental_update(theta, jax.lax.stop_gradient(state["key"]["params"]), 1 - tau)
        for v in ("view1", "view2"):
            y, xi_stats = apply(self.backbone, "backbone", xi, xi_stats, batch[v], train=train)
            k[v], xi_stats = apply(self._projector(), "projector", xi, xi_stats, y, train=train)
        loss1, top1 = contrast(q["view1"], k["view2"], temperature=self.temperature, axis_name=dist.AXIS)
        loss2, _ = contrast(q["view2"], k["view1"], temperature=self.temperature, axis_name=dist.AXIS)
        state = {"stats": stats, "key": {"params": xi, "stats": xi_stats}}
        spread = losses.spread(q["view1"], dist.AXIS)
        aux = Aux(
            metrics={"contrastive_top1": Metric(top1), "query_std": Metric(spread, kind="std")},
            features=jax.lax.stop_gradient(h["view1"]),
        )
        return loss1 + loss2, (state, aux)

    def chance(self, info: Info) -> float:
        """All queries or all keys equal: each of the N keys is as likely."""
        return 4 * self.temperature * math.log(info.batch_size)

    def best(self, info: Info) -> float:
        """Queries at their keys, and those at the corners of a simplex."""
        n = info.batch_size
        others = (n - 1) * math.exp(-n / max(n - 1, 1) / self.temperature)
        return 4 * self.temperature * math.log1p(others)


def _without_predictor(tree: Any) -> Any:
    return {name: part for name, part in tree.items() if name != "predictor"}
