"""DINOv2: DINO's loss of class tokens, iBOT's of masked patches, and KoLeo, which spreads features.

Oquab et al. 2023 (arXiv 2304.07193). Written from the formulas. Against iBOT: exactly half of the large crops are
masked, by ratios that are spread evenly; the teacher's outputs are balanced by Sinkhorn's iterations (the large
recipes, and the paper) or centred (the authors' short recipe), for class tokens and for masked patches alike; heads may
be separate; the gains of the prototypes are trained and decayed. The centre of the patches is of masked patches alone.

The authors count masked crops, and look for nearest neighbours, among the images of a device. Here both are in fixed
groups of the global batch. The number of masked patches that pass the head is fixed, and large enough for all.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Batch, Info
from ssl_jax.methods.joint.dino import entropy, moved_centre, paired_cross_entropy
from ssl_jax.methods.joint.ibot import cross_entropy
from ssl_jax.methods.joint.swav import sinkhorn
from ssl_jax.methods.ranges import Positive, Several, Share
from ssl_jax.methods.shared import masks as mask_maker
from ssl_jax.methods.shared.masked_teacher import PrototypeTeacher, rows_of_head, spread_of, teacher_temperature
from ssl_jax.models.backbone import one_of
from ssl_jax.models.parts import initialise


def masked_rows(masks: jax.Array, capacity: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where the masked patches are, in an array of fixed length.

    Args:
      masks: bool [n, 2, L].
      capacity: M, at least the number of masked patches.

    Returns:
      indices [M] into all patches, those masked first; bool [M], whether one is masked; and the weights [M] of a mean
      over crops of the mean over their masked patches, where a crop without any counts as 0.
    """
    flat = masks.reshape(-1)
    index = jnp.argsort(~flat, stable=True)[:capacity]
    counted = flat[index]
    shares = masks / jnp.maximum(masks.sum(-1, keepdims=True), 1) / (masks.shape[0] * masks.shape[1])
    return index, counted, jnp.where(counted, shares.reshape(-1)[index], 0.0)


def moved_patch_centre(centre: jax.Array, teacher: jax.Array, counted: jax.Array, momentum: float) -> jax.Array:
    """The patches' centre after a batch: of the masked patches of all replicas, each with the same weight.

    Args:
      centre: c [K].
      teacher: logits [M, K] of this replica.
      counted: bool [M], which are of masked patches.
      momentum: m.
    """
    total, count = dist.total((jnp.where(counted[:, None], teacher, 0.0).sum(0), counted.sum()))
    mean = total / jnp.maximum(count, 1)
    return jnp.where(count > 0, momentum * centre + (1 - momentum) * mean, centre)


@dataclasses.dataclass(frozen=True)
class DINOv2(PrototypeTeacher):
    """Robust visual features without supervision; defaults are those of the authors' large recipes."""

    global1: View = recipes.DINOV2_GLOBAL[0]
    global2: View = recipes.DINOV2_GLOBAL[1]
    local: View = recipes.DINOV2_LOCAL
    bottleneck: int = 384
    out: Several = 131072  # K, prototypes of class tokens and of patches
    separate_head: bool = True  # patches have a head of their own
    student_temp: Positive = 0.1  # T_s
    teacher_temp: Positive = 0.07  # T_t
    warmup_teacher_temp: Positive = 0.04  # its value at the start
    warmup_teacher_epochs: float = 30.0
    balance: str = "sinkhorn"  # how the teacher's outputs are made even, or 'centre' (the authors' short recipe)
    centre_momentum: Share = 0.9  # of both centres
    koleo_weight: float = 0.1  # of each large crop
    koleo_group: int = 64  # images among which nearest neighbours are sought
    tau: float = 0.994
    drop_path: float = 0.3
    drop_path_group: int = 16
    mask_group: int = 16  # crops among which exactly `mask_share` are masked
    mask_share: Share = 0.5  # of the large crops
    mask_low: float = 0.1  # smallest ratio of masked patches
    mask_high: float = 0.5
    mask_drawn: bool = True  # ratios are drawn within their part of the range; False: its upper end (DINOv3)

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        one_of("config.method.balance", self.balance, ("sinkhorn", "centre"))

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, state = super().init(rng, batch, info)
        state = {**state, "centre": jnp.zeros(self.out), "patch_centre": jnp.zeros(self.out)}
        if self.separate_head:
            like = jnp.zeros((1, params["mask_token"].shape[-1]))
            more, _ = initialise({"patch_head": self._head()}, jax.random.fold_in(rng, 2), like)
            params = params | more
            state["teacher"] = {**state["teacher"], "params": state["teacher"]["params"] | more}
        return params, state

    def _strata(self) -> dict[str, Any]:
        ratios = {"low": self.mask_low, "high": self.mask_high}
        return {"group": self.mask_group, "share": self.mask_share, **ratios}

    def _masks(self, rng: jax.Array, positions: jax.Array) -> jax.Array:
        options = {"roll": self.roll_masks, "drawn": self.mask_drawn}
        return mask_maker.stratified_masks(rng, positions, self._grid(), **self._strata(), **options)

    def _compare(self, params, state, tokens, masks, *, positions, step, info):
        head, teacher = self._head(), state["teacher"]["params"]
        name = "patch_head" if self.separate_head else "head"
        s, t = (rows_of_head(head, of["head"], x.classes) for of, x in zip((params, teacher), tokens, strict=True))
        most = mask_maker.capacity(2 * len(positions), masks.shape[-1], **self._strata())
        index, counted, weights = masked_rows(masks, most)
        s_patch, t_patch = (
            rows_of_head(head, of[name], x.patches.reshape(-1, x.patches.shape[-1])[index])
            for of, x in zip((params, teacher), tokens, strict=True)
        )
        warm = self.warmup_teacher_temp, self.teacher_temp, self.warmup_teacher_epochs
        temp = teacher_temperature(step, info, *warm)
        flat = t.reshape(-1, t.shape[-1])
        if self.balance == "sinkhorn":
            p = sinkhorn(flat, epsilon=temp, axis_name=dist.AXIS).reshape(t.shape)
            p_patch = sinkhorn(t_patch, epsilon=temp, counted=counted, axis_name=dist.AXIS)
            p_patch = jnp.where(counted[:, None], p_patch, 0.0)  # where nothing at all is masked they are no numbers
            moved = {}
        else:
            p = jax.nn.softmax((t - state["centre"]) / temp)
            p_patch = jax.nn.softmax((t_patch - state["patch_centre"]) / temp)
            momentum = self.centre_momentum
            moved = {
                "centre": moved_centre(state["centre"], t, momentum, dist.AXIS),
                "patch_centre": moved_patch_centre(state["patch_centre"], t_patch, counted, momentum),
            }
        of_classes = self._of_classes(p.swapaxes(0, 1), s.swapaxes(0, 1), step, info)
        of_patches = jnp.sum(weights * cross_entropy(p_patch, s_patch, self.student_temp))
        crops = tokens[0].classes[:, :2].swapaxes(0, 1)
        near = sum(losses.koleo(x, positions, self.koleo_group, dist.AXIS) for x in crops)
        metrics = {
            "class_loss": of_classes,
            "patch_loss": of_patches,
            "koleo": near / 2,
            "teacher_entropy": entropy(p).mean(),
            "mean_entropy": spread_of(p.reshape(-1, p.shape[-1])),
            "masked": masks.mean(dtype=jnp.float32),
        }
        return of_classes + of_patches + self.koleo_weight * near, metrics, moved

    def _of_classes(self, p: jax.Array, s: jax.Array, step: jax.Array, info: Info) -> jax.Array:
        """The loss of class tokens, of the teacher's distributions [2, n, K] and the student's logits [V, n, K]."""
        del step, info
        return paired_cross_entropy(p, s, self.student_temp)

    def chance(self, info: Info) -> float:
        """A uniform student; of the patches, for the share of crops that is masked."""
        return math.log(self.out) * (1 + int(self.mask_group * self.mask_share) / self.mask_group)
