"""MSN: views with missing patches are to be assigned to the same prototypes as the whole view of a slow copy.

Assran et al. 2022 (arXiv 2204.07141). Follows the authors' code (facebookresearch/msn): the target's assignment is
sharpened, then spread evenly over the prototypes by Sinkhorn's iterations, which the paper has as an option; the mean
assignment of all anchors and replicas is pulled towards a prior, the uniform one (me-max) or PMSN's power law (Assran
et al. 2023, arXiv 2210.07277); one choice of patches serves the whole batch. Prototypes get gradient through the
anchors alone. The authors add their gradient up over devices, where those of the encoder are averaged; here both are
averaged, which AdamW does not tell apart.
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
from ssl_jax.methods.joint.swav import sinkhorn
from ssl_jax.methods.ranges import BelowOne, OrZero, Positive, Several, Share
from ssl_jax.methods.shared import crops
from ssl_jax.models.gelu import gelu
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def assignments(z: jax.Array, prototypes: jax.Array, temperature: float) -> jax.Array:
    """Logarithms of the probabilities [..., K] of the prototypes, by cosine; in float32 or wider.

    Args:
      z: embeddings [..., D] of any length.
      prototypes: [K, D].
      temperature: of the softmax.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    return jax.nn.log_softmax(losses.similarity(losses.l2_normalize(z), losses.l2_normalize(prototypes)) / temperature)


def msn_loss(
    anchors: jax.Array,
    targets: jax.Array,
    prior: jax.Array,
    *,
    sharpening: float = 0.25,
    balance: bool = True,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cross-entropy of the anchors with the targets, and the divergence of the mean anchor from a prior.

    Args:
      anchors: log probabilities [V, n, K].
      targets: likewise [n, K]; no gradient flows into them.
      prior: log probabilities [K] that the mean assignment is to have.
      sharpening: T; targets are raised to 1 / T.
      balance: spread the targets evenly over the prototypes.
      axis_name: mapped axis over which the batch is spread; None for this replica alone.

    Returns:
      the mean over anchors of the cross-entropy, the divergence, which is the same on all replicas, and the targets'
      probabilities [n, K].
    """
    sharp = jax.nn.log_softmax(jax.lax.stop_gradient(targets) / sharpening)
    y = sinkhorn(sharp, epsilon=1.0, axis_name=axis_name) if balance else jnp.exp(sharp)
    cross = -jnp.mean(jnp.sum(y * anchors, -1))
    mean = jnp.exp(anchors).mean((0, 1))
    mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
    return cross, jnp.sum(mean * (jnp.log(jnp.maximum(mean, 1e-30)) - prior)), y


@dataclasses.dataclass(frozen=True)
class MSN(Method):
    """Masked siamese networks; defaults are the authors' for ViT-S/16."""

    view: View = recipes.MSN  # of the target and of large anchors
    focal: View = recipes.MSN_FOCAL
    anchors: int = 1  # large ones, with patches missing
    focals: OrZero = 10  # small ones, whole
    patch_drop: BelowOne = 0.15  # share of the patches that large anchors lack
    hidden: tuple[int, ...] = (2048, 2048)  # widths of the projector's hidden layers
    out: Several = 256
    prototypes: Several = 1024  # K
    temperature: Positive = 0.1  # of the assignments
    sharpening: Positive = 0.25  # T, of the targets'
    balance: bool = True  # by Sinkhorn's iterations (the code); False: the paper's main text
    prior_weight: float = 1.0  # of the divergence of the mean assignment from the prior
    power: float = 0.0  # PMSN: the prior falls as rank^-power; 0: it is uniform
    tau: Share = 0.996  # weight of the old target; linearly to 1 at 1.25 times the run
    drop_path: BelowOne = 0.0

    def views(self) -> dict[str, View]:
        large = {"target": self.view} | {f"anchor{i + 1}": self.view for i in range(self.anchors)}
        return large | {f"focal{i + 1}": self.focal for i in range(self.focals)}

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.anchors + self.focals < 1:
            raise UserError("config.method.anchors and focals are 0: MSN needs a view to compare with the target.")
        if self.anchors and self.patch_drop and "masked" not in self.backbone.options:
            raise UserError(
                f"config.method.patch_drop is {self.patch_drop:g}, and only a vision transformer with a class token "
                "can leave patches out: set config.model.name to vit_micro, tiny, small, base, large, huge or giant, "
                "or config.method.patch_drop to 0."
            )

    def _head(self) -> MLP:
        groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP(self.hidden, self.out, True, bn_groups=groups, dtype=dtype, activation=gelu)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        keys = jax.random.split(rng, 2)
        parts = {"backbone": self.backbone, "projector": self._head()}
        params, stats = initialise(parts, keys[0], batch["target"])
        bound = 1 / math.sqrt(self.out)
        prototypes = jax.random.uniform(keys[1], (self.prototypes, self.out), minval=-bound, maxval=bound)
        target = {"params": params, "stats": stats}
        return params | {"prototypes": {"kernel": prototypes}}, {"stats": stats, "target": target}

    def _prior(self) -> jax.Array:
        """Logarithms of the probabilities that the mean assignment is to have [K]."""
        return jax.nn.log_softmax(-self.power * jnp.log(jnp.arange(1.0, self.prototypes + 1)))

    def _seen(self, rng: jax.Array, images: int, size: int) -> jax.Array:
        """Indices [B, k] of the patches that large anchors have, the same for all images."""
        count = (size // self.backbone.patch) ** 2  # type: ignore[attr-defined]
        kept = max(round(count * (1 - self.patch_drop)), 1)
        order = jnp.sort(jax.random.permutation(rng, count)[:kept])
        return jnp.broadcast_to(order, (images, kept))

    def _features(self, params: Any, stats: Any, batch: Batch, names: list[str], rng: Any, train: bool) -> Any:
        """Features [V, n, D] of views of one size, and statistics; without a key no patch is left out."""
        views, x = self.views(), crops.stacked(batch, names)
        options: dict[str, Any] = {"train": train}
        if rng is not None:
            options |= {"drop_path": self.drop_path, "keys": crops.keys(rng, views, names, batch["position"])}
        if rng is not None and self.patch_drop and names[0].startswith("anchor"):
            seen = self._seen(jax.random.fold_in(rng, len(views)), len(x), views[names[0]].size)
            options |= {"visible": seen, "pool": False}
        h, stats = crops.forward(self.backbone, params, stats, x, **options)
        h = h[:, 0] if h.ndim == 3 else h
        return h.reshape(-1, len(names), h.shape[-1]).swapaxes(0, 1), stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        copy = jax.lax.stop_gradient(state["target"])
        y, moved = self._features(copy["params"], copy["stats"], batch, ["target"], None, train)
        t, moved = apply(self._head(), "projector", copy["params"], moved, y[0], train=train)
        found, stats = [], state["stats"]
        for kind, count in (("anchor", self.anchors), ("focal", self.focals)):
            if names := [f"{kind}{i + 1}" for i in range(count)]:
                h, stats = self._features(params, stats, batch, names, rng, train)
                found.append(h)
        h = jnp.concatenate(found)
        z, stats = apply(self._head(), "projector", params, stats, h.reshape(-1, h.shape[-1]), train=train)
        prototypes = params["prototypes"]["kernel"]
        anchors = assignments(z, prototypes, self.temperature).reshape(*h.shape[:2], -1)
        targets = assignments(t, prototypes, self.temperature)
        options: dict[str, Any] = {"sharpening": self.sharpening, "balance": self.balance, "axis_name": dist.AXIS}
        cross, apart, soft = msn_loss(anchors, targets, self._prior(), **options)
        used = dist.mean(jax.nn.one_hot(soft.argmax(-1), self.prototypes).mean(0)) > 0
        entropy = -jnp.sum(jnp.exp(anchors) * anchors, -1).mean()
        metrics = {
            "cross_entropy": Metric(cross, math.log(self.prototypes), "loss"),
            "prior_divergence": Metric(apart, math.log(self.prototypes), "loss"),  # of all on one prototype
            "prototypes_used": used.mean(dtype=jnp.float32),
            "anchor_entropy": entropy,
        }
        state = {"stats": stats, "target": {"params": copy["params"], "stats": moved}}
        aux = Aux(jax.lax.stop_gradient(metrics), jax.lax.stop_gradient(y[0]))
        return cross + self.prior_weight * apart, (state, aux)

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        share = (1 - self.tau) * (1 - step / (1.25 * info.total_steps))
        target = state["target"]
        own = {name: params[name] for name in target["params"]}
        moved = optax.incremental_update(own, target["params"], share)
        return params, {**state, "target": {**target, "params": moved}}

    def variables(self, params: Any, state: Any) -> dict[str, Any]:
        """The target's."""
        return super().variables(state["target"]["params"], state["target"])

    def groups(self, params: Any) -> Any:
        return super().groups(params) | {"prototypes": jax.tree.map(lambda _: "prototypes", params["prototypes"])}

    def chance(self, info: Info) -> float:
        """Uniform assignments."""
        return math.log(self.prototypes)
