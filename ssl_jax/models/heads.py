"""Projection and prediction heads."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.models.gelu import gelu
from ssl_jax.models.norm import BatchNorm

# torch's default for the kernels of linear layers: uniform with bound 1 / sqrt(fan in). Biases, which have the same one
# there, start at zero here.
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class MLP(nn.Module):
    """Dense layers, each hidden one followed by BatchNorm and a nonlinearity.

    Attributes:
      hidden: widths of the hidden layers.
      out: width of the output.
      hidden_bias: whether hidden layers have a bias (BatchNorm cancels it; some authors keep it).
      out_bias: whether the output layer has a bias.
      out_norm: BatchNorm after the output: 'none', 'affine' (scale and offset), 'scale' or 'plain' (neither).
      bn_groups: BatchNorm groups of the global batch.
      kernel_init: initialiser of the dense kernels.
      dtype: type that is computed in.
      hidden_norm: whether hidden layers have BatchNorm.
      activation: the nonlinearity.
    """

    hidden: tuple[int, ...]
    out: int
    hidden_bias: bool = False
    out_bias: bool = True
    out_norm: str = "none"
    bn_groups: int = 1
    kernel_init: Callable[..., Any] = torch_uniform
    dtype: Any = jnp.float32
    hidden_norm: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, D] -> [B, out]
        def dense(width, bias, name):
            return nn.Dense(width, bias, self.dtype, kernel_init=self.kernel_init, name=name)

        for i, width in enumerate(self.hidden):
            x = dense(width, self.hidden_bias, f"dense{i + 1}")(x)
            if self.hidden_norm:
                x = BatchNorm(self.bn_groups, dtype=self.dtype, name=f"norm{i + 1}")(x, train)
            x = self.activation(x)
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


class Classifier(nn.Module):
    """A linear layer to class logits, computed in float32 at least.

    Attributes:
      classes: K.
    """

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return nn.Dense(self.classes, kernel_init=torch_uniform, name="linear")(x)


class DINOHead(nn.Module):
    """DINO's head: dense layers with GELU, normalisation to the sphere, and cosines to weight-normalised prototypes.

    Attributes:
      hidden: widths of the hidden layers.
      bottleneck: width of the sphere.
      out: number of prototypes; 0: the place on the sphere is what is returned.
      batch_norm: BatchNorm in the hidden layers.
      unit_prototypes: prototypes of length one; else each has a gain that is learned (`norm_last_layer` in the code).
      linear_prototypes: instead of either, a linear layer without a bias (DINOv3).
      bn_groups: BatchNorm groups of the global batch.
      kernel_init: initialiser of the dense kernels; the prototypes have torch's default.
      dtype: type that is computed in.
    """

    hidden: tuple[int, ...] = (2048, 2048)
    bottleneck: int = 256
    out: int = 65536
    batch_norm: bool = False
    unit_prototypes: bool = True
    bn_groups: int = 1
    kernel_init: Callable[..., Any] = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32
    linear_prototypes: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, D] -> float32 [B, out]
        for i, width in enumerate(self.hidden):
            # BatchNorm would cancel a bias.
            x = nn.Dense(width, not self.batch_norm, self.dtype, kernel_init=self.kernel_init, name=f"dense{i + 1}")(x)
            if self.batch_norm:
                x = BatchNorm(self.bn_groups, dtype=self.dtype, name=f"norm{i + 1}")(x, train)
            x = gelu(x)
        x = nn.Dense(self.bottleneck, dtype=self.dtype, kernel_init=self.kernel_init, name="bottleneck")(x)
        z = losses.l2_normalize(x)
        if self.linear_prototypes:
            last = nn.Dense(self.out, False, precision="highest", kernel_init=self.kernel_init, name="last_layer")
            return last(z.astype(jnp.float32))
        return Prototypes(self.out, self.unit_prototypes, name="last_layer")(z) if self.out else z


class Prototypes(nn.Module):
    """Inner products with vectors of length one, or of a length that is learned; float32."""

    count: int
    unit: bool

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:  # [B, D] -> [B, count]
        v = self.param("kernel", torch_uniform, (z.shape[-1], self.count))
        scores = losses.similarity(z, losses.l2_normalize(v.T))
        return scores if self.unit else scores * self.param("gain", nn.initializers.ones, (1, self.count))
