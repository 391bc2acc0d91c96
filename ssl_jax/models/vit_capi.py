"""Vision transformers as CAPI trains them, and its decoder: `vit_small_capi` and the like.

There is no class token: features are the mean of the patches. Registers are placed along the edge of the image, and
queries and keys of registers and patches alike are turned by their place. Blocks have RMSNorm and no biases.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from ssl_jax import dist
from ssl_jax.models import rotary
from ssl_jax.models.backbone import Backbone, Encoded, Pair, pooled
from ssl_jax.models.gelu import gelu
from ssl_jax.models.onnx import Graph
from ssl_jax.models.patches import patches
from ssl_jax.models.transformer import INITS, Init, open_gates, scanned
from ssl_jax.models.vit import SIZES
from ssl_jax.models.vit_rotary import RotaryViT
from ssl_jax.runtime.errors import UserError

_CAPI = "_capi"
FASTEST, SLOWEST = 7.0, 7e-4  # turns from one edge of the image to the other


def patch_places(grid: tuple[int, int]) -> np.ndarray:
    """Row and column of patches [rows columns, 2], each from 0 to 1 with both ends."""
    axes = [np.linspace(0, 1, n) for n in grid]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def edge_places(count: int) -> np.ndarray:
    """Row and column of registers [count, 2], a quarter of them along each edge of the unit square, one way round."""
    along = np.arange(count // 4) / max(count // 4, 1)
    still = np.zeros_like(along)
    sides = (along, still), (still + 1, along), (1 - along, still + 1), (still, 1 - along)
    return np.concatenate([np.stack(side, -1) for side in sides])


def frequencies(width: int) -> np.ndarray:
    """Radians [2, width] by which each channel of a head turns along the rows and along the columns.

    The first half of the channels turns with the row and the second with the column. `rotary.turned` has a channel
    and the one half a head further as a plane, as the authors have it, so that the two axes of a plane turn by
    different angles: it is no rotation.
    """
    falling = FASTEST * (FASTEST / SLOWEST) ** np.linspace(0, -1, width // 4)
    half, none = 2 * np.pi * np.tile(falling, 2), np.zeros(width // 2)
    return np.stack([np.concatenate([half, none]), np.concatenate([none, half])])


def turns(places: jax.Array, width: int) -> jax.Array:
    """Cosine and sine for `rotary.turned` [2, 1 or B, n, width] of places [1 or B, n, 2], float32 or wider."""
    along, across = jnp.asarray(frequencies(width), jnp.promote_types(places.dtype, jnp.float32))
    angles = places[..., :1] * along + places[..., 1:] * across
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)])


class CAPIViT(RotaryViT):
    """A vision transformer with registers along the edge, and features that are the mean of its patches."""

    options: ClassVar[frozenset[str]] = frozenset({"drop_path"})
    pools_map: ClassVar[bool] = True
    plain: ClassVar[bool] = True

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(f"{size}{_CAPI}" for size in SIZES)

    @classmethod
    def from_config(cls, config: Any) -> Backbone:
        if config.registers % 4:
            raise UserError(
                f"config.model.registers is {config.registers}, and {config.name} has as many along each edge of the "
                "image: make it a multiple of 4."
            )
        if config.positions != "learned":
            raise UserError(
                f"config.model.positions is '{config.positions}', but {config.name} has rotary ones: drop it."
            )
        return super().from_config(ConfigDict({**config, "name": config.name.removesuffix(_CAPI)}))

    @staticmethod
    def suits(state: dict[str, np.ndarray]) -> bool:
        del state
        return False

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        *,
        train: bool,
        stage: float | None = None,
        frozen: int = 0,
        drop_path: float = 0.0,
        keys: jax.Array | None = None,
        pool: bool | None = True,
        visible: jax.Array | None = None,
        gates: jax.Array | None = None,
    ) -> jax.Array | Encoded:
        """Encodes images; arguments as of `ViT`.

        Args:
          x: normalised images [B, H, W, C].
          train: as other backbones have it; only `drop_path` depends on it.
          stage: quarter of the depth whose output is wanted.
          frozen: the patches and so many quarters of the blocks get no gradient.
          drop_path: probability that an image skips the last block's branches.
          keys: one random key an image [B].
          pool: return the mean; None: mean and map.
          visible: indices [B, k] of the only patches that are encoded.
          gates: factors [B, blocks, 2] of the residual branches, instead of those drawn with `drop_path`.

        Returns:
          the mean over the patches [B, D]; with `pool=False` their map [B, rows, columns, D]; with `pool=None` both;
          with `visible` all tokens, the registers' first, [B, registers + k, D].
        """
        width, depth, _ = SIZES[self.size]
        grid = (x.shape[1] // self.patch, x.shape[2] // self.patch)
        x = self._tokens(x, grid, visible)
        if gates is None:
            gates = open_gates(keys, drop_path, depth) if train and keys is not None else jnp.ones((1, depth, 2))
        by = turns(self.places(grid, visible), width // (self.heads or SIZES[self.size][2]))
        x = self._blocks(x, gates.astype(x.dtype), stage, frozen, turns=by)
        x = nn.RMSNorm(1e-5, self.dtype, use_scale=False, name="norm")(x)
        if visible is not None:
            return x
        return pooled(x[:, self.registers :].reshape(len(x), *grid, width), pool)

    def places(self, grid: tuple[int, int], visible: jax.Array | None) -> jax.Array:
        """Row and column of all tokens [1 or B, registers + n, 2].

        Registers lie around the visible patches, and not around those that are hidden.
        """
        of_patches = jnp.asarray(patch_places(grid), jnp.float32)
        of_patches = of_patches[None] if visible is None else of_patches[visible]
        first, last = of_patches.min(1, keepdims=True), of_patches.max(1, keepdims=True)
        edge = jnp.asarray(edge_places(self.registers), jnp.float32)
        return jnp.concatenate([first + edge * (last - first), of_patches], 1)

    def _tokens(self, x: jax.Array, grid: tuple[int, int], visible: jax.Array | None, masked: Any = None) -> jax.Array:
        width, init = SIZES[self.size][0], INITS[self.vit_init]
        x = nn.Dense(width, dtype=self.dtype, kernel_init=init.patch, name="patch")(patches(x, self.patch))
        x = x if visible is None else jnp.take_along_axis(x, visible[..., None], 1)
        if not self.registers:
            return x
        tokens = self.param("registers", init.registers, (1, self.registers, width)).astype(x.dtype)
        return jnp.concatenate([jnp.broadcast_to(tokens, (len(x), *tokens.shape[1:])), x], 1)

    def torch_pairs(self, layout: str) -> list[Pair]:
        raise self._unnamed()

    def torch_code(self, layout: str, channels: int, size: int) -> str:
        raise self._unnamed()

    def onnx(self, graph: Graph, params: Any, stats: Any, size: int, mean: bool) -> int:
        return Backbone.onnx(self, graph, params, stats, size, mean)

    def onnx_maps(
        self, graph: Graph, params: Any, stats: Any, size: tuple[int, int], stages: Sequence[int]
    ) -> list[str]:
        return Backbone.onnx_maps(self, graph, params, stats, size, stages)


class CrossBlock(nn.Module):
    """Attention to other tokens and a two-layer network, each behind an RMSNorm and added to its input; no biases.

    Attributes:
      heads: of the attention.
      inits: how weights start; keys and values are one matrix.
      dtype: type that is computed in; norms and softmax are float32.
    """

    heads: int
    inits: Init
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, gates: jax.Array, context: jax.Array, turns: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        """Tokens [B, m, D] behind the block.

        Args:
          x: tokens [B, m, D], which do not see each other.
          gates: factors [B or 1, 2] of the branches.
          context: tokens [B, n, D] that are attended to, as they are.
          turns: rotary positions of both.
        """
        width = x.shape[-1]

        def dense(features, name, init=self.inits.linear):
            return nn.Dense(features, False, self.dtype, kernel_init=init, name=name)

        def norm(name):
            return nn.RMSNorm(1e-5, self.dtype, name=name)

        attend, think = gates[:, :, None, None].swapaxes(0, 1)
        q = dense(width, "q")(norm("norm1")(x)).reshape(*x.shape[:2], self.heads, -1)
        # Xavier for each of the two.
        both = dense(2 * width, "kv", nn.initializers.variance_scaling(1.5, "fan_avg", "uniform"))(context)
        k, v = jnp.moveaxis(both.reshape(*context.shape[:2], 2, self.heads, -1), 2, 0)
        q, k = rotary.turned(q, turns[0]), rotary.turned(k, turns[1])
        x += attend * dense(width, "proj")(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))
        y = dense(4 * width, "mlp1")(norm("norm2")(x))
        return x + think * dense(width, "mlp2")(gelu(y))


class CrossDecoder(nn.Module):
    """Predicts features at places of an image, each alone, from what was encoded of others (CAPI).

    Attributes:
      depth: blocks.
      heads: of the attention.
      vit_init: how weights start, a key of `INITS`.
      dtype: type that is computed in; norms and softmax are float32.
      scan: compile one block and run it in a loop, as `ViT` does.
    """

    depth: int
    heads: int
    vit_init: str = "capi"
    dtype: Any = jnp.float32
    scan: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, asked: jax.Array, known: jax.Array, gates: jax.Array | None = None
    ) -> jax.Array:
        """Features [B, m, D] of mean square one.

        Args:
          x: encoded tokens [B, n, D].
          train: as other networks have it; nothing depends on it.
          asked: places [B, m, 2] whose features are wanted.
          known: places [B, n, 2] of the tokens.
          gates: factors [B, blocks, 2] of the residual branches; None: all are open.
        """
        del train
        width, init = x.shape[-1], INITS[self.vit_init]
        by = turns(asked, width // self.heads), turns(known, width // self.heads)
        mask = self.param("mask_token", init.token, (1, 1, width)).astype(x.dtype)
        # Each replica's own from here on. Left to JAX, the gradients of the token and of the first block's queries were
        # other ones on 8 devices than on 1 (on CPUs, jax 0.10.2 and 0.12).
        y = dist.vary_like(jnp.broadcast_to(mask, (*asked.shape[:2], width)), x)
        gates = jnp.ones((1, self.depth, 2), x.dtype) if gates is None else gates.astype(x.dtype)
        fields: dict[str, Any] = {"heads": self.heads, "inits": init, "dtype": self.dtype}
        if self.scan and not self.is_initializing():
            params: list[Any] = [self.get_variable("params", f"block{i + 1}") for i in range(self.depth)]
            y = scanned(CrossBlock(**fields, parent=None), params, y, gates, False, x, by)
        else:
            for i in range(self.depth):
                y = CrossBlock(**fields, name=f"block{i + 1}")(y, gates[:, i], x, by)
        return nn.RMSNorm(1e-5, self.dtype, use_scale=False, name="norm")(y)
