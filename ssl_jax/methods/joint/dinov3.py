"""DINOv3: DINOv2 with rotary positions, a linear last layer, and Gram anchoring of the patches.

Siméoni et al. 2025 (arXiv 2508.10104). Written from the formulas. Against DINOv2: teachers' outputs are always balanced
by Sinkhorn's iterations, and heads are always separate; prototypes are a linear layer; the ratios of masked patches are
not drawn; small crops' class tokens have a last norm of their own in training; keys have no bias.

Over long trainings patches become worse while class tokens become better. From `gram_start` on the inner products
between all patches of a large crop are held to those of the Gram teacher, a copy of the EMA teacher from an earlier
time, which sees the same crop undistorted and at a higher resolution; its patches are resized to the student's grid.
Meanwhile the small crops' part of the class tokens' loss falls to a half.

The last stage, at high resolution, is another run with `config.init_from`, in which each update draws the sizes of its
crops (`sizes`). The large models also change the places of the student's patches, once an update for all images
(`rope_shift`, `rope_jitter`, `rope_rescale`); their teachers see the places as they are.

What differs: the student's crop is cut out of the image, not out of the Gram teacher's crop. Streamed images are
cropped at the largest of the sizes, and shrunk to the one that is drawn.
"""

import dataclasses
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Batch, Info, Method
from ssl_jax.methods.joint.dino import cross_entropies
from ssl_jax.methods.joint.dinov2 import DINOv2
from ssl_jax.methods.ranges import OrZero, Positive, Rising, Share
from ssl_jax.methods.shared.masked_teacher import GLOBALS, Tokens
from ssl_jax.models import rotary
from ssl_jax.models.backbone import one_of
from ssl_jax.models.heads import DINOHead
from ssl_jax.models.patches import bicubic
from ssl_jax.models.vit_rotary import RotaryViT
from ssl_jax.runtime.errors import UserError

_PLACES = 1003  # what the step's key is folded with, beside those of `masked_teacher`


def gram_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean squared difference of the cosines between the patches of an image.

    Args:
      student: patches [n, L, D].
      teacher: likewise; no gradient flows into them.
    """
    x, y = (losses.l2_normalize(z.astype(jnp.promote_types(z.dtype, jnp.float32))) for z in (student, teacher))
    of_x, of_y = (jnp.einsum("nid,njd->nij", z, z, precision="highest") for z in (x, jax.lax.stop_gradient(y)))
    return jnp.mean((of_x - of_y) ** 2)


def resized_map(patches: jax.Array, old: tuple[int, int], new: tuple[int, int]) -> jax.Array:
    """Patches [n, rows columns, D] on another grid: bicubic, not antialiased, half-pixel centres."""
    if old == new:
        return patches
    rows, columns = (jnp.asarray(bicubic(a, b, 0.0), patches.dtype) for a, b in zip(old, new, strict=True))
    square = patches.reshape(len(patches), *old, -1)
    moved = jnp.einsum("ri,cj,nijd->nrcd", rows, columns, square, precision="highest")
    return moved.reshape(len(patches), new[0] * new[1], -1)


def without_key_bias(backbone: Any) -> Any:
    """A transformer's parameters whose keys have no bias, so that it gets no gradient and stays at zero."""

    def of(block: Any) -> Any:
        bias = block["qkv"]["bias"]
        keys = jnp.arange(len(bias)) // (len(bias) // 3) == 1
        return {**block, "qkv": {**block["qkv"], "bias": jnp.where(keys, 0, bias)}}

    return {name: of(part) if name.startswith("block") else part for name, part in backbone.items()}


@dataclasses.dataclass(frozen=True)
class DINOv3(DINOv2):
    """Self-distillation with Gram anchoring; defaults are those of the authors' ViT-L/16 on ImageNet-1k."""

    bottleneck: int = 256
    out: int = 65536  # K, prototypes of class tokens, and as many of patches
    tau: float = 0.992
    mask_drawn: bool = False
    gram_weight: float = 0.0  # of the Gram loss; the authors' large model has 2; 0: there is none
    gram_start: float = 0.0  # epochs before it
    gram_ramp: float = 0.0  # epochs until it has its weight
    gram_every: float = 0.0  # epochs after which the Gram teacher becomes the EMA teacher anew; 0: never
    gram_copies: OrZero = 3  # how often at most
    gram_size: int = 448  # side of the crops that it sees, pixels
    small_weight: Share = 0.5  # of small crops among class tokens, once the Gram loss has its weight
    # Sides of large, small and Gram crops, pixels, and the probability that an update has them; (): the views' own.
    sizes: tuple[tuple[int, int, int, float], ...] = ()
    rope_shift: float = 0.0  # most that the student's places are shifted along each axis, which is 2 long
    rope_jitter: Rising = 1.0  # most that they are stretched or squeezed along each axis by itself
    rope_rescale: Rising = 1.0  # likewise, along both alike; the authors' large model has 2

    def primary_view(self) -> View:
        return self.global1

    def variants(self) -> list[tuple[Method, float]]:
        return [(self._sized(*sides), share) for *sides, share in self.sizes] or super().variants()

    def _sized(self, large: int, small: int, gram: int) -> "DINOv3":
        """The method with crops of these sizes alone."""
        views = {name: replace(getattr(self, name), size=large) for name in GLOBALS}
        return replace(self, sizes=(), gram_size=gram, local=replace(self.local, size=small), **views)

    def _largest(self) -> "DINOv3":
        return self._sized(*[max(sides) for sides in zip(*self.sizes, strict=True)][:3])  # type: ignore[arg-type]

    def views(self) -> dict[str, View]:
        if self.sizes:
            return self._largest().views()
        views = super().views()
        if not self.gram_weight:
            return views
        plain: dict[str, Any] = {"size": self.gram_size, "jitter": 0.0, "gray": 0.0, "blur": 0.0, "solarize": 0.0}
        return views | {f"gram{i + 1}": replace(views[name], like=name, **plain) for i, name in enumerate(GLOBALS)}

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        one_of("config.method.balance", self.balance, ("sinkhorn",))
        if not self.separate_head:
            raise UserError("config.method.separate_head is False, but DINOv3's patches have a head of their own.")
        if self.gram_weight and (self.gram_size % self.backbone.patch or self.gram_size < self.global1.size):
            raise UserError(
                f"config.method.gram_size is {self.gram_size}: make it a multiple of config.model.patch, "
                f"{self.backbone.patch}, and at least the size of the large crops, {self.global1.size}."
            )
        if self._changes() and not isinstance(self.backbone, RotaryViT):
            raise UserError(
                "config.method.rope_shift, rope_jitter and rope_rescale are of rotary positions: set config.model.name "
                "to vit_micro_rope, or tiny, small, base, large, huge or giant in the place of micro."
            )
        if self.sizes and abs(sum(row[3] for row in self.sizes) - 1) > 1e-6:
            raise UserError(
                f"config.method.sizes has probabilities {[row[3] for row in self.sizes]}: make their sum 1."
            )
        for sized, _ in self.variants() if self.sizes else ():
            sized.check(height, width, channels)

    def loss(self, params, state, batch, **options):
        if self.sizes:  # asked for outside of training, where nothing draws one
            return self._largest().loss(params, state, batch, **options)
        return super().loss(params, state, batch, **options)

    def _head(self) -> DINOHead:
        return super()._head().clone(linear_prototypes=True)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, state = super().init(rng, batch, info)
        params = params | {"small_norm": params["backbone"]["norm"]}
        if self.gram_weight:
            state = {**state, "gram": state["teacher"]["params"]["backbone"]}
        return params, state

    def _changes(self) -> bool:
        return (self.rope_shift, self.rope_jitter, self.rope_rescale) != (0.0, 1.0, 1.0)

    def _gates(self, names, batch, rng, params, train):
        options = super()._gates(names, batch, rng, params, train)
        if not train or not self._changes():
            return options
        views: dict[str, View] = self.views()
        key = jax.random.fold_in(jax.random.fold_in(rng, _PLACES), list(views).index(names[0]))
        change = rotary.drawn_change(key, self.rope_shift, self.rope_jitter, self.rope_rescale)
        grid = (views[names[0]].size // self.backbone.patch,) * 2
        return options | {"turns": self.backbone.turns_of(grid, change=change)}

    def _of_small(self, params: Any) -> Any:
        return {**params, "backbone": {**params["backbone"], "norm": params["small_norm"]}}

    def _encode(self, params, batch, names, **options):
        return super()._encode({**params, "backbone": without_key_bias(params["backbone"])}, batch, names, **options)

    def _shown(self, step: jax.Array, info: Info) -> jax.Array:
        """Share of its weight that the Gram loss has: 0 before `gram_start`, then half a cosine to 1."""
        since = step - self.gram_start * info.steps_per_epoch
        progress = jnp.clip(since / max(self.gram_ramp * info.steps_per_epoch, 1), 0.0, 1.0)
        return jnp.where(since >= 0, (1 - jnp.cos(jnp.pi * progress)) / 2, 0.0)

    def _of_classes(self, p, s, step, info):
        if not self.gram_weight:
            return super()._of_classes(p, s, step, info)
        return weighted_pairs(p, s, self.student_temp, 1 - (1 - self.small_weight) * self._shown(step, info))

    def _beside(self, state, batch, student: Tokens, step, info):
        if not self.gram_weight:
            return 0.0, {}
        share, side = self._shown(step, info), self.gram_size // self.backbone.patch

        def anchored(patches: jax.Array) -> jax.Array:
            _, wanted = self._encode({"backbone": state["gram"]}, batch, ["gram1", "gram2"])
            wanted = wanted.reshape(-1, side * side, wanted.shape[-1])
            return gram_loss(patches, resized_map(wanted, (side, side), self._grid()))

        patches = student.patches.reshape(-1, *student.patches.shape[2:])
        # Before it counts it costs nothing.
        value = jax.lax.cond(share > 0, anchored, lambda x: dist.vary_like(jnp.zeros(()), x), patches)
        return self.gram_weight * share * value, {"gram_loss": value}

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        params, state = super().after_update(params, state, step, info)
        if not self.gram_weight:
            return params, state
        updates = step + 1
        start, every = (round(x * info.steps_per_epoch) for x in (self.gram_start, self.gram_every))
        since = updates - start
        due = since == 0
        if every:
            due |= (since > 0) & (since % every == 0) & (since // every <= self.gram_copies)
        newest = state["teacher"]["params"]["backbone"]
        kept = jax.tree.map(lambda new, old: jnp.where(due, new, old), newest, state["gram"])
        return params, {**state, "gram": kept}


def weighted_pairs(p_t: jax.Array, student: jax.Array, student_temp: Positive, small: jax.Array | float) -> jax.Array:
    """DINO's loss of class tokens with a weight for small crops; the number of pairs does not change with it.

    Args:
      p_t: the teacher's distributions [2, n, K] of the large crops.
      student: logits [V, n, K], those of the large crops first.
      student_temp: T_s.
      small: weight of the pairs with a small crop.
    """
    cross = cross_entropies(p_t, student, student_temp)
    large = cross[:, :2].sum() - jnp.trace(cross)
    return (large + small * cross[:, 2:].sum()) / (cross.size - len(p_t))
