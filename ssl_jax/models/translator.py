"""From an image of one domain to an image of another, and what tells such images from real ones, part by part."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.conv import Conv, conv2d


def instance_norm(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Each channel of each image [B, H, W, C] with mean 0 and variance 1 over its places; without scale and offset."""
    mean = x.mean((1, 2), keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.square(x - mean).mean((1, 2), keepdims=True) + epsilon)


class Reflected(nn.Module):
    """A convolution of stride 1 whose image is continued by reflection, with a bias or an instance norm.

    Attributes:
      features: output channels.
      kernel: side of the kernel, pixels, odd.
      norm: whether instance norm follows; else there is a bias.
      dtype: type that is computed in.
    """

    features: int
    kernel: int = 3
    norm: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H, W, features]
        conv = Conv(self.features, self.kernel, use_bias=not self.norm, init_kind="dcgan", name="conv")
        w, bias = conv.weights(x.shape[-1])
        edge = (self.kernel // 2, self.kernel // 2)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), edge, edge, (0, 0)), mode="reflect")
        x = conv2d(x, w.astype(self.dtype), 1, 0)
        return instance_norm(x) if bias is None else x + bias.astype(self.dtype)


class Translator(nn.Module):
    """CycleGAN's generator: halvings, residual blocks, as many doublings, and tanh.

    A doubling repeats each pixel and convolves, where the authors have a strided transposed convolution.

    Attributes:
      width: channels at full size; twice as many after each halving.
      blocks: residual blocks.
      halvings: of the map's height and width.
      dtype: type that is computed in.
    """

    width: int = 64
    blocks: int = 9
    halvings: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, H, W, C] in [-1, 1] -> the same, float32
        del train
        channels, height, width = x.shape[-1], x.shape[1], x.shape[2]
        x = nn.relu(Reflected(self.width, 7, dtype=self.dtype, name="in")(x))
        for i in range(1, self.halvings + 1):
            down = Conv(self.width * 2**i, 3, 2, init_kind="dcgan", dtype=self.dtype, name=f"down{i}")
            x = nn.relu(instance_norm(down(x)))
        for i in range(self.blocks):
            h = nn.relu(Reflected(x.shape[-1], dtype=self.dtype, name=f"block{i + 1}_1")(x))
            x = x + Reflected(x.shape[-1], dtype=self.dtype, name=f"block{i + 1}_2")(h)
        for i in range(1, self.halvings + 1):
            x = x.repeat(2, 1).repeat(2, 2)
            x = Conv(self.width * 2 ** (self.halvings - i), 3, init_kind="dcgan", dtype=self.dtype, name=f"up{i}")(x)
            x = nn.relu(instance_norm(x))
        x = Reflected(channels, 7, norm=False, dtype=self.dtype, name="out")(x[:, :height, :width])
        return jnp.tanh(x.astype(jnp.float32))


class PatchDiscriminator(nn.Module):
    """PatchGAN: 4x4 convolutions with leaky ReLUs, of stride 2 and the last of stride 1; one answer a patch.

    Attributes:
      widths: channels of the convolutions; all but the first have instance norm.
      dtype: type that is computed in.
    """

    widths: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, H, W, C] -> float32 [B, h, w]
        del train
        for i, width in enumerate(self.widths):
            x = Conv(width, 4, 2, use_bias=i == 0, init_kind="dcgan", dtype=self.dtype, name=f"conv{i + 1}")(x)
            x = nn.leaky_relu(instance_norm(x) if i else x, 0.2)
        return Conv(1, 4, use_bias=True, init_kind="dcgan", name="out")(x.astype(jnp.float32))[..., 0]
