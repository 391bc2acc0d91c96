"""BYOL: a predictor of the EMA teacher's projections of another view, without negatives (bootstrap your own latent).

Grill et al. 2020 (arXiv 2006.07733). Follows the authors' code (deepmind-research byol/): views go through the
networks one by one; projector and predictor have a bias before BatchNorm and none at the end; online and target
start from different random weights; the target moves after the optimiser and its BatchNorm statistics come from its
own forward passes, in training mode. The loss is 4 - 2 cos - 2 cos, the mean over images.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import Several, Share
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError, nearest


def regression_loss(p: jax.Array, z: jax.Array) -> jax.Array:
    """Squared distance between normalised predictions and targets (eq. 2), the mean over rows: 2 - 2 cos.

    Args:
      p: predictions [N, D].
      z: targets [N, D]; no gradient flows into them.

    Returns:
      scalar between 0 and 4.
    """
    z = jax.lax.stop_gradient(z)
    return jnp.mean(jnp.sum(jnp.square(losses.l2_normalize(p) - losses.l2_normalize(z)), -1))


def target_decay(base: float, step: jax.Array, total_steps: int) -> jax.Array:
    """Weight tau of the old target: cosine from `base` at step 0 to 1 at the end (sec. 3.2)."""
    return 1 - (1 - base) * (jnp.cos(jnp.pi * step / total_steps) + 1) / 2


@dataclasses.dataclass(frozen=True)
class BYOL(Method):
    """Bootstrap your own latent."""

    compares = True

    view1: View = recipes.BYOL[0]  # App. B
    view2: View = recipes.BYOL[1]
    hidden: int = 4096  # of projector and predictor, sec. 3.3
    out: Several = 256  # width of z and q(z)
    out_bias: bool = False  # of their last layers
    tau: Share = 0.996  # base target decay: .97, .99, .99, .996 for 40, 100, 300, 1000 epochs
    tau_schedule: str = "cosine"  # 'cosine' to 1, or 'constant'
    update_target: str = "after"  # the optimiser (the authors) or 'before' each forward pass (lightly)
    copy_target: bool = False  # start the target as a copy; the authors draw it independently
    scale: float = 1.0  # of the loss; 1 is the authors' 4 - 2 cos - 2 cos

    def _head(self) -> MLP:
        bn_groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP((self.hidden,), self.out, True, self.out_bias, bn_groups=bn_groups, dtype=dtype)

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        for field, known in (("update_target", ("before", "after")), ("tau_schedule", ("cosine", "constant"))):
            if getattr(self, field) not in known:
                raise UserError(
                    f"config.method.{field} is '{getattr(self, field)}'. {nearest(getattr(self, field), known)}"
                )

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        online, target = jax.random.split(rng)
        parts = {"backbone": self.backbone, "projector": self._head()}
        params, stats = initialise({**parts, "predictor": self._head()}, online, batch["view1"])
        xi, xi_stats = initialise(parts, online if self.copy_target else target, batch["view1"])
        return params, {"stats": stats, "target": {"params": xi, "stats": xi_stats}}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        target = state["target"]
        if self.update_target == "before":
            target = self._moved(jax.lax.stop_gradient(params), target, step, info)
        stats, xi_stats = state["stats"], target["stats"]
        h, g, p, z = {}, {}, {}, {}
        for v in ("view1", "view2"):
            h[v], stats = apply(self.backbone, "backbone", params, stats, batch[v], train=train)
            g[v], stats = apply(self._head(), "projector", params, stats, h[v], train=train)
            p[v], stats = apply(self._head(), "predictor", params, stats, g[v], train=train)
            y, xi_stats = apply(self.backbone, "backbone", target["params"], xi_stats, batch[v], train=train)
            z[v], xi_stats = apply(self._head(), "projector", target["params"], xi_stats, y, train=train)
        loss = regression_loss(p["view1"], z["view2"]) + regression_loss(p["view2"], z["view1"])
        state = {"stats": stats, "target": {"params": target["params"], "stats": xi_stats}}
        spread = losses.spread(g["view1"], dist.AXIS)
        aux = Aux(
            metrics={"cosine": Metric(1 - loss / 4, kind="value"), "projection_std": Metric(spread, kind="std")},
            features=jax.lax.stop_gradient(h["view1"]),
        )
        return self.scale * loss, (state, aux)

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        if self.update_target == "before":
            return params, state
        return params, {**state, "target": self._moved(params, state["target"], step, info)}

    def _moved(self, params: Any, target: Any, step: jax.Array, info: Info) -> Any:
        """Xi <- tau xi + (1 - tau) theta; parameters only."""
        tau = self.tau if self.tau_schedule == "constant" else target_decay(self.tau, step, info.total_steps)
        theta = {name: params[name] for name in target["params"]}
        return {**target, "params": optax.incremental_update(theta, target["params"], 1 - tau)}

    def chance(self, info: Info) -> float:
        """Predictions at right angles to their targets."""
        return 4.0 * self.scale
