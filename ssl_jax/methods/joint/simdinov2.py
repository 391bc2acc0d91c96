"""SimDINOv2: SimDINO with masked patches, whose features are matched by their cosine.

Wu et al. 2025 (arXiv 2502.10385). Masks are DINOv2's, and so is the weighting of the patches; they have no coding rate
of their own. One head serves class tokens and patches.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint.simdino import SimDINO
from ssl_jax.methods.shared import masks as mask_maker
from ssl_jax.methods.shared.masked_teacher import masked_mean, rows_of_head


@dataclasses.dataclass(frozen=True)
class SimDINOv2(SimDINO):
    """DINOv2 by coding rates; defaults are the authors' for ViT-B/16."""

    global1: View = recipes.SIMDINOV2_GLOBAL[0]
    global2: View = recipes.SIMDINOV2_GLOBAL[1]
    tau: float = 0.9
    drop_path: float = 0.2
    drop_path_group: int = 16
    mask_group: int = 16  # crops among which exactly `mask_share` are masked
    mask_share: float = 0.5  # of the large crops
    mask_low: float = 0.1  # smallest ratio of masked patches
    mask_high: float = 0.5

    def _masks(self, rng: jax.Array, positions: jax.Array) -> jax.Array:
        strata: dict[str, Any] = {"group": self.mask_group, "share": self.mask_share}
        strata |= {"low": self.mask_low, "high": self.mask_high}
        return mask_maker.stratified_masks(rng, positions, self._grid(), roll=self.roll_masks, **strata)

    def _compare(self, params, state, tokens, masks, *, positions, step, info):
        options = {"positions": positions, "step": step, "info": info}
        loss, metrics, moved = super()._compare(params, state, tokens, masks, **options)
        s = rows_of_head(self._head(), params["head"], tokens[0].patches)
        t = rows_of_head(self._head(), state["teacher"]["params"]["head"], tokens[1].patches)
        of_patches = masked_mean(jnp.sum(s * t, -1), masks)
        metrics |= {"patch_cosine": of_patches, "masked": masks.mean(dtype=jnp.float32)}
        return loss - of_patches, metrics, moved

    def best(self, info: Info) -> float:
        """As SimDINO's, and equal patches in the crops that are masked."""
        return super().best(info) - int(self.mask_group * self.mask_share) / self.mask_group
