"""The blocks of a transformer, as DINO, MoCo v3 and MAE have them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.models import rotary
from ssl_jax.models.gelu import gelu
from ssl_jax.models.heads import torch_uniform


class Init(NamedTuple):
    """Initialisers of the weights; biases start at zero."""

    linear: Callable[..., Any]
    qkv: Callable[..., Any]  # queries, keys and values are one matrix
    patch: Callable[..., Any]
    token: Callable[..., Any]
    registers: Callable[..., Any]


normal, _xavier = nn.initializers.normal(0.02), nn.initializers.xavier_uniform()
_nearly_zero = nn.initializers.normal(1e-6)
INITS = {
    # Written as a truncated normal, but its cut is at 100 standard deviations; the patches have torch's default.
    "dino": Init(normal, normal, torch_uniform, normal, _nearly_zero),
    "dinov2": Init(normal, normal, torch_uniform, _nearly_zero, _nearly_zero),
    "dinov3": Init(normal, normal, torch_uniform, normal, normal),
    # Xavier for each of queries, keys and values: twice the variance that their common matrix would have.
    "mocov3": Init(
        _xavier,
        nn.initializers.variance_scaling(2.0, "fan_avg", "uniform"),
        _xavier,
        _nearly_zero,
        _nearly_zero,
    ),
    "mae": Init(_xavier, _xavier, _xavier, normal, _nearly_zero),
    # Xavier for each of queries, keys and values, as mocov3.
    "capi": Init(_xavier, nn.initializers.variance_scaling(2.0, "fan_avg", "uniform"), _xavier, normal, normal),
}


_LINEAR = ("qkv", "q", "kv", "proj", "mlp1", "mlp2")  # layers that compute in a block's own type


class TransformerBlock(nn.Module):
    """Attention and a two-layer network, each behind a LayerNorm and added to its input.

    Attributes:
      heads: of the attention.
      inits: how weights start.
      dtype: type that is computed in; norms and softmax are float32.
      ffn: the two-layer network: 'mlp' with GELU, or 'swiglu' (Shazeer 2020) as DINOv2 has it.
      layer_scale: start of a factor for each channel of both branches (Touvron et al. 2021); 0: there is none.
      plain: RMSNorm in the place of LayerNorm, and no biases (CAPI).
    """

    heads: int
    inits: Init
    dtype: Any
    ffn: str = "mlp"
    layer_scale: float = 0.0
    plain: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, gates: jax.Array, seen: jax.Array | None = None, turns: jax.Array | None = None
    ) -> jax.Array:
        """Tokens [B, n, D] behind the block.

        Args:
          x: tokens [B, n, D].
          gates: factors [B or 1, 2] of the branches.
          seen: bool [B, n], tokens that all attend to; None: all of them.
          turns: rotary positions, as `rotary.turns` returns them; None: there are none.
        """

        def dense(features, name, init=self.inits.linear):
            return nn.Dense(features, not self.plain, self.dtype, kernel_init=init, name=name)

        attend, think = gates[:, :, None, None].swapaxes(0, 1)
        width = x.shape[-1]
        y = self._norm("norm1")(x)
        y = dense(3 * width, "qkv", self.inits.qkv)(y).reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = jnp.moveaxis(y, 2, 0)
        if turns is not None:
            q, k = (rotary.turned(part, turns) for part in (q, k))
        mask = None if seen is None else seen[:, None, None]
        y = jax.nn.dot_product_attention(q, k, v, mask=mask).reshape(x.shape)
        x += attend * self._scaled(dense(width, "proj")(y), "scale1")
        y = self._norm("norm2")(x)
        if self.ffn == "swiglu":
            gate, value = jnp.split(dense(2 * swiglu_width(width), "mlp1")(y), 2, -1)
            y = nn.silu(gate) * value
        else:
            y = gelu(dense(4 * width, "mlp1")(y))
        return x + think * self._scaled(dense(width, "mlp2")(y), "scale2")

    def _norm(self, name: str) -> nn.Module:
        return nn.RMSNorm(1e-5, self.dtype, name=name) if self.plain else nn.LayerNorm(1e-6, self.dtype, name=name)

    def _scaled(self, y: jax.Array, name: str) -> jax.Array:
        if not self.layer_scale:
            return y
        return y * self.param(name, nn.initializers.constant(self.layer_scale), y.shape[-1:]).astype(y.dtype)


def swiglu_width(width: int) -> int:
    """Hidden channels of a SwiGLU: two thirds of a perceptron's, rounded up to a multiple of 8 (DINOv2's code)."""
    return (int(4 * width * 2 / 3) + 7) // 8 * 8


def scanned(block: Any, params: list[Any], x: jax.Array, gates: jax.Array, remat: bool, *more: Any) -> jax.Array:
    """Applies blocks of one shape in a loop, so that one of them is compiled instead of all.

    The parameters stay one subtree a block; they are stacked here, those of the linear layers in the type that is
    computed in. For the backward pass a block keeps the results of its linear layers and computes the rest anew:
    without that every intermediate result would be stored. The attention's scores are made anew too. They cost less
    than 1 % of the arithmetic, but a TPU would store them in float32 and in tiles of 128.

    Args:
      block: applied to the parameters of each block.
      params: of the blocks.
      x: tokens [B, n, D].
      gates: of the residual branches [B or 1, blocks, 2].
      remat: keep only the input of each block, and compute it anew in the backward pass.
      *more: what each block takes behind its gates, the same for all.
    """

    def body(x: jax.Array, of_block: tuple[Any, jax.Array]) -> tuple[jax.Array, None]:
        own, x = dist.spread(of_block[0], x)
        return block.apply({"params": own}, x, of_block[1], *more), None

    def cast(name: str, layer: Any) -> Any:
        return jax.tree.map(lambda w: w.astype(block.dtype), layer) if name in _LINEAR else layer

    cast_params = [{name: cast(name, layer) for name, layer in own.items()} for own in params]
    stacked = jax.tree.map(lambda *w: jnp.stack(w), *cast_params)
    policies = jax.checkpoint_policies
    policy = policies.nothing_saveable if remat else policies.dots_with_no_batch_dims_saveable
    # Nothing outside of a loop's turn can be merged with what is computed anew in it.
    body = jax.checkpoint(body, policy=policy, prevent_cse=False)
    return jax.lax.scan(body, x, (stacked, jnp.moveaxis(gates, 1, 0)))[0]


def open_gates(keys: jax.Array, drop_path: float, depth: int) -> jax.Array:
    """Draws which residual branches an image passes through (stochastic depth, Huang et al. 2016).

    Args:
      keys: one key an image [B].
      drop_path: probability of skipping a branch of the last block, falling linearly to 0 at the first.
      depth: number of blocks.

    Returns:
      factors [B, depth, 2] of the branches: 0, or one over the probability of passing.
    """
    keep = 1 - drop_path * np.linspace(0, 1, depth, dtype=np.float32)[:, None]
    draws = jax.vmap(lambda key: jax.random.uniform(key, (depth, 2)))(keys)
    return (draws < keep) / keep


def subset_gates(rng: jax.Array, rows: jax.Array, group: int, drop_path: float, depth: int) -> jax.Array:
    """Draws which rows pass through a residual branch: a fixed number of each group of rows (DINOv2's code).

    The authors choose among the rows of a device. Groups of rows of the global batch do not depend on the devices.

    Args:
      rng: a key that all replicas share.
      rows: numbers [n] of the rows in the global batch.
      group: g, rows a group; of them max(int(g (1 - drop_path)), 1) pass through a branch, anew for each.
      drop_path: share that is skipped, the same at every depth.
      depth: number of blocks.

    Returns:
      factors [n, depth, 2] of the branches: 0, or g over the number of rows that pass.
    """
    keep = max(int(group * (1 - drop_path)), 1)
    chosen = jax.vmap(lambda key: draw_ranks(key, group, (depth, 2)))(
        jax.vmap(jax.random.fold_in, (None, 0))(rng, rows // group)
    )
    own = jnp.take_along_axis(chosen, (rows % group)[:, None, None, None], 1)[:, 0]
    return jnp.where(own < keep, group / keep, 0.0)


def draw_ranks(key: jax.Array, count: int, shape: tuple[int, ...] = ()) -> jax.Array:
    """Random orders: [count, *shape], each column the numbers from 0 to count - 1."""
    draws = jax.random.bits(key, (count, *shape), jnp.uint32)
    return jnp.argsort(jnp.argsort(draws, 0), 0)
