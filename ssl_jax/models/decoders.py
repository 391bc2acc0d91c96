"""Networks from a backbone's feature map back to an image."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.conv import Conv
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.patches import sincos
from ssl_jax.models.transformer import INITS, TransformerBlock, scanned


class Decoder(nn.Module):
    """Stages that enlarge the map by equal factors, then a 3x3 convolution to the output.

    A stage resizes bilinearly, then has a 3x3 convolution, BatchNorm and a ReLU: unlike a strided transposed
    convolution it treats all pixels alike at any factor, so that maps and outputs may have any size.

    Attributes:
      widths: channels of the stages.
      side: of the output, pixels.
      out: channels of the output.
      conv_init: how convolutions start, a key of `conv.INITS`.
      bn_groups: BatchNorm groups of the global batch.
      dtype: type that is computed in.
    """

    widths: tuple[int, ...]
    side: int
    out: int
    conv_init: str = "kaiming"
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, h, w, C] -> float32 [B, side, side, out]
        def conv(features, name, bias):
            return Conv(features, 3, use_bias=bias, init_kind=self.conv_init, dtype=self.dtype, name=name)

        start, count = x.shape[1], len(self.widths)
        for i, width in enumerate(self.widths, 1):
            side = round(start * (self.side / start) ** (i / count))
            x = jax.image.resize(x, (len(x), side, side, x.shape[-1]), "bilinear")
            x = conv(width, f"stage{i}", False)(x)
            x = nn.relu(BatchNorm(self.bn_groups, dtype=self.dtype, name=f"stage{i}_norm")(x, train))
        return conv(self.out, "out", True)(x).astype(jnp.float32)


class ChannelwiseDense(nn.Module):
    """Connects all places of a map with all others, each channel by itself (context encoder, sec. 3.1)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, h, w, C] -> the same
        del train
        b, h, w, c = x.shape
        init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=(0,))
        kernel = self.param("kernel", init, (c, h * w, h * w)).astype(self.dtype)
        return jnp.einsum("bic,cij->bjc", x.reshape(b, h * w, c), kernel).reshape(x.shape)


class MAEDecoder(nn.Module):
    """A narrow transformer over visible and masked patches (MAE, sec. 3; models_mae.py).

    Attributes:
      width: of the tokens.
      depth: blocks.
      heads: of the attention.
      grid: rows and columns of patches.
      out: values of a patch.
      dtype: type that is computed in; norms and softmax are float32.
      scan: compile one block and run it in a loop, as `ViT` does.
    """

    width: int
    depth: int
    heads: int
    grid: tuple[int, int]
    out: int
    dtype: Any = jnp.float32
    scan: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, restore: jax.Array) -> jax.Array:
        """Predicts all patches.

        Args:
          x: encoded tokens [B, 1 + k, D], the class token's first.
          train: as other networks have it; nothing depends on it.
          restore: [B, rows columns], for each patch its place among the visible ones followed by the masked ones.

        Returns:
          [B, rows columns, out], float32 at least.
        """
        del train
        init = INITS["mae"]

        def dense(features, name):
            return nn.Dense(features, dtype=self.dtype, kernel_init=init.linear, name=name)

        x = dense(self.width, "embed")(x)
        mask = self.param("mask_token", init.token, (1, 1, self.width)).astype(x.dtype)
        mask = jnp.broadcast_to(mask, (len(x), 1 + restore.shape[1] - x.shape[1], self.width))
        patches = jnp.take_along_axis(jnp.concatenate([x[:, 1:], mask], 1), restore[..., None], 1)
        x = jnp.concatenate([x[:, :1], patches], 1) + jnp.asarray(sincos(self.grid, self.width), x.dtype)
        gates = jnp.ones((1, self.depth, 2), x.dtype)
        fields: dict[str, Any] = {"heads": self.heads, "inits": init, "dtype": self.dtype}
        if self.scan and not self.is_initializing():
            params: list[Any] = [self.get_variable("params", f"block{i + 1}") for i in range(self.depth)]
            x = scanned(TransformerBlock(**fields, parent=None), params, x, gates, remat=False)
        else:
            for i in range(self.depth):
                x = TransformerBlock(**fields, name=f"block{i + 1}")(x, gates[:, i])
        x = nn.LayerNorm(1e-6, self.dtype, name="norm")(x)
        return dense(self.out, "out")(x)[:, 1:].astype(jnp.promote_types(self.dtype, jnp.float32))


class JEPAPredictor(nn.Module):
    """A narrow transformer from a context to the features of target blocks (I-JEPA, sec. 3).

    Attributes:
      width: of the tokens.
      depth: blocks.
      heads: of the attention.
      grid: rows and columns of patches.
      out: channels of a feature.
      dtype: type that is computed in; norms and softmax are float32.
    """

    width: int
    depth: int
    heads: int
    grid: tuple[int, int]
    out: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        context: jax.Array,
        counted: jax.Array,
        targets: jax.Array,
        target_counted: jax.Array,
    ) -> jax.Array:
        """Predicts every target block by itself.

        Args:
          x: encoded tokens of the context [B, N, D].
          train: as other networks have it; nothing depends on it.
          context: which patches they are [B, N].
          counted: bool [B, N], which of them there are; others are not attended to.
          targets: patches of each block [B, T, M].
          target_counted: bool [B, T, M], likewise.

        Returns:
          float32 [B, T, M, out].
        """
        del train
        init = INITS["dino"]

        def dense(features, name):
            return nn.Dense(features, dtype=self.dtype, kernel_init=init.linear, name=name)

        b, t, m = targets.shape
        positions = jnp.asarray(sincos(self.grid, self.width), self.dtype)[0, 1:]
        x = dense(self.width, "embed")(x) + positions[context]
        mask = self.param("mask_token", init.token, (1, 1, 1, self.width)).astype(x.dtype)
        asked = (mask + positions[targets]).reshape(b * t, m, -1)
        x = jnp.concatenate([jnp.repeat(x, t, 0), asked], 1)
        seen = jnp.concatenate([jnp.repeat(counted, t, 0), target_counted.reshape(b * t, m)], 1)
        gates = jnp.ones((1, 2), x.dtype)
        for i in range(self.depth):
            x = TransformerBlock(self.heads, init, self.dtype, name=f"block{i + 1}")(x, gates, seen)
        x = nn.LayerNorm(1e-6, self.dtype, name="norm")(x[:, -m:])
        return dense(self.out, "out")(x).astype(jnp.float32).reshape(b, t, m, -1)
