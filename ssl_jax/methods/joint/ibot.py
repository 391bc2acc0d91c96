"""iBOT: DINO, with masked patches of the student's crops matched to what the teacher sees in their place.

Zhou et al. 2022 (arXiv 2111.07832). Follows the authors' code (bytedance/ibot): a head for class tokens and patches
alike; each large crop is masked with probability 1/2, by a ratio of .1 to .5; the loss of the patches pairs equal crops
and is a mean over all images, of which those without a mask count as 0, so that its weight is half of what it would be
over masked images; two centres, that of the patches of all patches, move after the loss.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Batch, Info
from ssl_jax.methods.joint.dino import entropy, moved_centre, paired_cross_entropy
from ssl_jax.methods.ranges import Positive, Several, Share
from ssl_jax.methods.shared import masks as mask_maker
from ssl_jax.methods.shared.masked_teacher import (
    PrototypeTeacher,
    masked_mean,
    rows_of_head,
    spread_of,
    teacher_temperature,
)


def cross_entropy(p_t: jax.Array, student: jax.Array, student_temp: float) -> jax.Array:
    """H(P_t, P_s) of rows: distributions [..., K] and logits [..., K]."""
    scaled = student / student_temp
    return jax.nn.logsumexp(scaled, -1) - jnp.sum(p_t * scaled, -1)


@dataclasses.dataclass(frozen=True)
class IBOT(PrototypeTeacher):
    """Image BERT pre-training with an online tokeniser; defaults are the code's for ViT-S/16."""

    global1: View = recipes.IBOT_GLOBAL[0]
    global2: View = recipes.IBOT_GLOBAL[1]
    local: View = recipes.IBOT_LOCAL
    locals: int = 10
    out: Several = 8192  # K, prototypes of class tokens and patches
    student_temp: Positive = 0.1  # T_s
    teacher_temp: Positive = 0.07  # T_t of class tokens, from warmup_teacher_temp
    warmup_teacher_temp: Positive = 0.04
    patch_temp: Positive = 0.07  # T_t of patches, from warmup_patch_temp
    warmup_patch_temp: Positive = 0.04
    warmup_teacher_epochs: float = 30.0  # epochs of the warm-up of both
    centre_momentum: Share = 0.9  # of both centres
    mask_share: Share = 0.5  # probability that a large crop is masked
    mask_low: float = 0.1  # smallest ratio of masked patches
    mask_high: float = 0.5
    patch_weight: float = 1.0  # lambda_2
    patch_start: float = 0.0  # epochs before patches count

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, state = super().init(rng, batch, info)
        return params, {**state, "centre": jnp.zeros(self.out), "patch_centre": jnp.zeros(self.out)}

    def _masks(self, rng: jax.Array, positions: jax.Array) -> jax.Array:
        rows, columns = self._grid()
        keys = dist.example_keys(rng, mask_maker.crop_numbers(positions, 2).reshape(-1))
        draws = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (2,)))(keys)
        ratio = self.mask_low + draws[:, 0] * (self.mask_high - self.mask_low)
        counts = jnp.where(draws[:, 1] < self.mask_share, rows * columns * ratio, 0.0).astype(jnp.int32)
        least = max((min(rows, columns) // 3) ** 2, 1)
        found = mask_maker.block_masks(keys, counts, (rows, columns), least=least, roll=self.roll_masks)
        return found.reshape(len(positions), 2, -1)

    def _compare(self, params, state, tokens, masks, *, positions, step, info):
        head, teacher = self._head(), state["teacher"]["params"]["head"]
        s, s_patch = (rows_of_head(head, params["head"], x) for x in tokens[0])
        t, t_patch = (rows_of_head(head, teacher, x) for x in tokens[1])
        warm = self.warmup_teacher_epochs
        temp = teacher_temperature(step, info, self.warmup_teacher_temp, self.teacher_temp, warm)
        patch_temp = teacher_temperature(step, info, self.warmup_patch_temp, self.patch_temp, warm)
        p = jax.nn.softmax((t - state["centre"]) / temp)
        p_patch = jax.nn.softmax((t_patch - state["patch_centre"]) / patch_temp)
        by_view = (p.swapaxes(0, 1), s.swapaxes(0, 1))
        of_classes = paired_cross_entropy(*by_view, self.student_temp)
        of_patches = masked_mean(cross_entropy(p_patch, s_patch, self.student_temp), masks)
        weight = self.patch_weight * (step >= self.patch_start * info.steps_per_epoch)
        metrics = {
            "class_loss": of_classes,
            "patch_loss": of_patches,
            "teacher_entropy": entropy(p).mean(),
            "patch_entropy": entropy(p_patch).mean(),
            "mean_entropy": spread_of(p.reshape(-1, p.shape[-1])),
            "masked": masks.mean(dtype=jnp.float32),
        }
        every_patch = t_patch.reshape(t_patch.shape[0], -1, t_patch.shape[-1])
        moved = {
            "centre": moved_centre(state["centre"], t, self.centre_momentum, dist.AXIS),
            "patch_centre": moved_centre(state["patch_centre"], every_patch, self.centre_momentum, dist.AXIS),
        }
        return of_classes + weight * of_patches, metrics, moved

    def chance(self, info: Info) -> float:
        """A uniform student; of the patches, for the share of crops that is masked."""
        return math.log(self.out) * (1 + self.patch_weight * self.mask_share)
