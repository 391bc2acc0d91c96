"""MAE: a masked autoencoder, which reconstructs the patches that its encoder does not see.

He, Chen, Xie, Li, Dollar, Girshick 2021 (arXiv 2111.06377). Three quarters of an image's patches are taken away; a
vision transformer encodes the rest, and a small one rebuilds what is missing. Follows the authors' code
(facebookresearch/mae, models_mae.py):

- positions are fixed sines and cosines, added before masking; the class token, whose position is zero, passes through
  encoder and decoder (config.model.positions = 'sincos', vit_init = 'mae'). The quarters of their channels stand in
  MoCo v3's order, rows first, which random weights cannot tell from the authors';
- the target is each patch normalised by its own mean and unbiased variance, plus 1e-6 (`norm_pix`); the paper's main
  text has the pixels, its tab. 1d both;
- the loss is the mean over masked patches alone;
- features are the class token after the last norm, as in main_linprobe.py, whose classifier stands behind a BatchNorm.
  Fine-tuning tunes the same token, where main_finetune.py takes the mean of the patches'. Expect a low kNN accuracy:
  the original's is low too.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.methods.ranges import BelowOne
from ssl_jax.models.decoders import MAEDecoder
from ssl_jax.models.parts import apply, initialise
from ssl_jax.models.patches import patches, unpatched
from ssl_jax.runtime.errors import UserError


def random_masking(keys: jax.Array, count: int, visible: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Chooses the patches that are seen, uniformly for each image (sec. 3).

    Args:
      keys: one key an image [B].
      count: L, patches of an image.
      visible: patches that are seen.

    Returns:
      indices [B, visible] of the patches seen; [B, L], for each patch its place among them followed by the masked
      ones; and the mask [B, L], 1 where a patch is masked.
    """
    noise = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)
    shuffle = jnp.argsort(noise, 1)
    restore = jnp.argsort(shuffle, 1)
    return shuffle[:, :visible], restore, (restore >= visible).astype(jnp.float32)


def normalised(target: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Patches [B, L, n] by their own mean and deviation, and these two [B, L, 1] (sec. 3, "reconstruction target")."""
    mean, std = target.mean(-1, keepdims=True), jnp.sqrt(target.var(-1, keepdims=True, ddof=1) + 1e-6)
    return (target - mean) / std, mean, std


def masked_error(prediction: jax.Array | float, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error over the masked patches.

    Args:
      prediction: [B, L, n].
      target: [B, L, n].
      mask: [B, L], 1 where a patch counts.
    """
    return jnp.sum(jnp.square(prediction - target).mean(-1) * mask) / mask.sum()


@dataclasses.dataclass(frozen=True)
class MAE(Method):
    """Masked autoencoder."""

    view: View = recipes.MAE  # App. A.1
    mask_ratio: BelowOne = 0.75  # share of the patches taken away, sec. 4.1
    norm_pix: bool = True  # normalise each patch of the target, tab. 1d
    width: int = 512  # of the decoder, tab. 1b
    depth: int = 8  # blocks of the decoder, tab. 1a
    heads: int = 16  # of the decoder's attention (models_mae.py)

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if "visible" not in self.backbone.options:
            raise UserError(
                "MAE encodes some of an image's patches, which only a vision transformer can: set config.model.name "
                "to one (vit_micro, tiny, small, base, large); as a task of multitask it also needs "
                "config.method.harmonise=False."
            )
        if self.view.size % self.backbone.patch or not 0 < self._visible() < self._grid()[0] ** 2:
            raise UserError(
                f"config.method.view.size is {self.view.size}, config.model.patch {self.backbone.patch} and "
                f"config.method.mask_ratio {self.mask_ratio}: the first must be a multiple of the second, and some "
                "patches must be masked and some not."
            )
        if self.width % self.heads or self.width % 4:
            raise UserError(
                f"config.method.width is {self.width}: it must be a multiple of 4 and of config.method.heads "
                f"({self.heads})."
            )

    def _grid(self) -> tuple[int, int]:
        return (self.view.size // self.backbone.patch,) * 2

    def _visible(self) -> int:
        return int(math.prod(self._grid()) * (1 - self.mask_ratio))

    def _decoder(self, batch: Batch) -> MAEDecoder:
        values = self.backbone.patch**2 * batch["view"].shape[-1]
        return MAEDecoder(
            self.width, self.depth, self.heads, self._grid(), values, self.backbone.dtype, self.backbone.scan
        )

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        keys = jax.random.split(rng, 2)
        visible, restore, _ = random_masking(keys, math.prod(self._grid()), self._visible())
        x = batch["view"]
        params, stats = initialise({"backbone": self.backbone}, keys[0], x)
        tokens: Any = self.backbone.apply({"params": params["backbone"]}, x, train=True, pool=False, visible=visible)
        more, none = initialise({"decoder": self._decoder(batch)}, keys[1], tokens, restore=restore)
        return params | more, {"stats": stats | none}

    def _predict(self, params, stats, batch, rng, train):
        """Encoded tokens, predicted patches, the mask and the running statistics."""
        keys = dist.example_keys(rng, batch["position"])
        visible, restore, mask = random_masking(keys, math.prod(self._grid()), self._visible())
        x, net = batch["view"], self.backbone
        h, stats = apply(net, "backbone", params, stats, x, train=train, pool=False, visible=visible)
        y, stats = apply(self._decoder(batch), "decoder", params, stats, h, train=train, restore=restore)
        return h, y, mask, stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        h, y, mask, stats = self._predict(params, state["stats"], batch, rng, train)
        target = patches(batch["view"], self.backbone.patch)
        if self.norm_pix:
            target = normalised(target)[0]
        loss = masked_error(y, target, mask)
        # By chance the answer is the mean: of the patch, or of the data set. Both are zero.
        metrics = {"masked_mse": Metric(loss, masked_error(0.0, target, mask), "loss")}
        # Of an image with masked patches, for the online probe; `encode` sees all of it.
        aux = Aux(metrics, jax.lax.stop_gradient(h[:, 0]))
        return loss, ({"stats": stats}, aux)

    def pictures(self, params, state, batch, *, rng):
        batch = {name: x[:8] for name, x in batch.items()}
        _, y, mask, _ = self._predict(params, state["stats"], batch, rng, train=False)
        target = patches(batch["view"], self.backbone.patch)
        if self.norm_pix:  # with the true patch's own mean and deviation, as the authors' demonstration
            _, mean, std = normalised(target)
            y = y * std + mean
        hidden = mask[..., None]
        columns = (target * (1 - hidden), target * (1 - hidden) + y * hidden, target)
        images = [unpatched(x, self._grid(), self.backbone.patch) for x in columns]
        shown = np.stack([np.clip(pixels(self.view, x), 0, 1) for x in images], 1)
        return [Picture("Masked patches are rebuilt from the visible ones.", ("seen", "rebuilt", "truth"), shown)]

    def chance(self, info: Info) -> float:
        """Predicting the mean; exactly (n - 1) / n for normalised patches of n values."""
        return 1.0
