"""Projection and prediction heads."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.norm import BatchNorm

# torch's default for linear layers: uniform with bound 1 / sqrt(fan in).
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class MLP(nn.Module):
    """Dense layers, each hidden one followed by BatchNorm and a ReLU.

    Attributes:
      hidden: widths of the hidden layers.
      out: width of the output.
      hidden_bias: whether hidden layers have a bias (BatchNorm cancels it; some authors keep it).
      out_bias: whether the output layer has a bias.
      out_norm: BatchNorm after the output: 'none', 'affine' (scale and offset), 'scale' or 'plain' (neither).
      bn_groups: BatchNorm groups of the global batch.
      kernel_init: initialiser of the dense kernels.
      dtype: type that is computed in.
    """

    hidden: tuple[int, ...]
    out: int
    hidden_bias: bool = False
    out_bias: bool = True
    out_norm: str = "none"
    bn_groups: int = 1
    kernel_init: Callable[..., Any] = torch_uniform
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, D] -> [B, out]
        def dense(width, bias, name):
            return nn.Dense(width, bias, self.dtype, kernel_init=self.kernel_init, name=name)

        for i, width in enumerate(self.hidden):
            x = dense(width, self.hidden_bias, f"dense{i + 1}")(x)
            x = nn.relu(BatchNorm(self.bn_groups, dtype=self.dtype, name=f"norm{i + 1}")(x, train))
        x = dense(self.out, self.out_bias, "out")(x)
        if self.out_norm == "none":
            return x
        return BatchNorm(
            self.bn_groups,
            use_scale=self.out_norm != "plain",
            use_bias=self.out_norm == "affine",
            dtype=self.dtype,
            name="out_norm",
        )(x, train)
