"""Networks of dense layers, to which the order of pixels is nothing: the three of BiGAN for MNIST."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.backbone import Backbone, Encoded, pooled
from ssl_jax.models.conv import INITS
from ssl_jax.models.norm import BatchNorm


class PixelMLP(Backbone):
    """Two dense layers without biases, each followed by a leaky ReLU: the encoder of BiGAN for MNIST (net.py).

    The second has a BatchNorm, without scale and offset. Images must have the size that the network was made for. Its
    map has a single place.

    Attributes:
      width: of both layers.
      bn_groups: BatchNorm groups of the global batch.
      conv_init: how the layers start, a key of `conv.INITS`.
      dtype: type that is computed in.
    """

    width: int = 1024
    bn_groups: int = 1
    conv_init: str = "dcgan"
    dtype: Any = jnp.float32

    stages: ClassVar[int] = 2  # layers whose output can be asked for
    fixed_size: ClassVar[bool] = True

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return ("mlp",)

    @property
    def title(self) -> str:
        return f"MLP of width {self.width}"

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, stage: int | None = None, frozen: int = 0, pool: bool | None = True
    ) -> jax.Array | Encoded:
        """Encodes images; arguments as of `Backbone`."""
        x = OfPixels(self.width, self.conv_init, self.dtype, name="stage1")(x)
        x = nn.leaky_relu(x, 0.2)
        x = jax.lax.stop_gradient(x) if frozen else x
        if stage != 1:
            x = _linear(x, self.width, self.dtype, "stage2", INITS[self.conv_init])
            x = _norm(self.bn_groups, self.dtype, "stage2_norm")(x, train and frozen < 2)
            x = nn.leaky_relu(x, 0.2)
            x = jax.lax.stop_gradient(x) if frozen > 1 else x
        return pooled(x[:, None, None], pool)


class OfPixels(nn.Module):
    """A dense layer of all pixels [B, H, W, C], whose kernel [H, W, C, K] shows what each output sees.

    Attributes:
      features: K.
      init_kind: how the kernel starts, a key of `conv.INITS`, as that of a matrix.
      dtype: type that is computed in.
    """

    features: int
    init_kind: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.dtype)
        flat = x.reshape(len(x), -1)

        def start(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return INITS[self.init_kind](key, (flat.shape[1], self.features)).reshape(shape)

        kernel = self.param("kernel", start, (*x.shape[1:], self.features))
        return flat @ kernel.reshape(-1, self.features).astype(self.dtype)


class DenseDiscriminator(nn.Module):
    """The authors' discriminator of digits: dense layers with leaky ReLUs; its logits are zero at the start.

    Attributes:
      widths: of the layers.
      bn_groups: BatchNorm groups of the global batch.
      dtype: type that is computed in.
    """

    widths: tuple[int, ...]
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, code: jax.Array, train: bool) -> jax.Array:  # [B, H, W, C] -> float32 [B]
        x = x.reshape(len(x), -1)
        for i, width in enumerate(self.widths, 1):
            x = _linear(x, width, self.dtype, f"dense{i}")
            if i > 1:
                x = x + _linear(code, width, self.dtype, f"code{i}")
                x = _norm(self.bn_groups, self.dtype, f"norm{i}")(x, train)
            x = nn.leaky_relu(x, 0.2)
        return _linear(x, 1, self.dtype, "out", nn.initializers.zeros)[:, 0].astype(jnp.float32)


class DenseGenerator(nn.Module):
    """The authors' generator of digits: dense layers with ReLUs, to each of which but the first the code is added.

    Attributes:
      widths: of the layers.
      side: of the image, pixels.
      out: channels of the image.
      bn_groups: BatchNorm groups of the global batch.
      dtype: type that is computed in.
    """

    widths: tuple[int, ...]
    side: int
    out: int
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:  # [B, D] -> float32 [B, side, side, out]
        x = z
        for i, width in enumerate(self.widths, 1):
            x = _linear(x, width, self.dtype, f"dense{i}")
            if i > 1:
                x = x + _linear(z, width, self.dtype, f"code{i}")
            x = nn.relu(_norm(self.bn_groups, self.dtype, f"norm{i}")(x, train))
        x = _linear(x, self.side * self.side * self.out, self.dtype, "out")
        return x.reshape(-1, self.side, self.side, self.out).astype(jnp.float32)


def _linear(x: jax.Array, width: int, dtype: Any, name: str, init: Any = INITS["dcgan"]) -> jax.Array:
    """A dense layer without bias, of the network that is being made."""
    return nn.Dense(width, False, dtype, kernel_init=init, name=name)(x)


def _norm(groups: int, dtype: Any, name: str) -> BatchNorm:
    return BatchNorm(groups, use_scale=False, use_bias=False, dtype=dtype, name=name)
