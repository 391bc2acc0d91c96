"""Convolution that is quick on a CPU as well.

A convolution and its two gradients are three bilinear maps, each the derivative of the others: y of x and w, the input
gradient of y's and w, the weight gradient of x and y's. Here each is a primitive of JAX, so that derivatives of every
order, forward and reverse, are again these three. On a CPU they are computed as `conv_cpu` says; accelerators keep
XLA's own convolution and gradients.
"""

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp

from ssl_jax import dist
from ssl_jax.models import conv_cpu, conv_xla

# How convolutions start. BatchNorm hides the scale of a kernel but not its gradient: a kernel s times smaller learns
# s^2 times as fast, so the initialisation is part of a recipe.
INITS = {
    "kaiming": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),  # torchvision's ResNets
    "torch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),  # torch's own default, lightly's CIFAR nets
    "dcgan": nn.initializers.normal(0.02),  # generators and discriminators
    "gauss": nn.initializers.normal(0.01),  # classifiers of dense prediction
}


class Conv(nn.Module):
    """2-D convolution of NHWC images with square kernel and symmetric zero padding of dilation * (kernel - 1) // 2.

    Attributes:
      features: output channels.
      kernel: side of the kernel, pixels.
      stride: step of the kernel, pixels.
      use_bias: whether to add a bias per channel.
      init_kind: a key of `INITS`.
      dtype: type that is computed in; parameters stay float32.
      dilation: pixels from one tap of the kernel to the next; above 1 the stride is 1.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    use_bias: bool = False
    init_kind: str = "kaiming"
    dtype: Any = jnp.float32
    dilation: int = 1

    def __call__(self, x: jax.Array) -> jax.Array:  # [N, H, W, C] -> [N, H', W', features]
        w, bias = self.weights(x.shape[-1])
        x, w = x.astype(self.dtype), w.astype(self.dtype)
        if self.dilation > 1:
            y = dilated_conv2d(x, w, self.dilation)
        else:
            y = conv2d(x, w, self.stride, (self.kernel - 1) // 2)
        return y if bias is None else y + bias.astype(self.dtype)

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """The kernel [k, k, channels, features] for so many input channels, and the bias if there is one."""
        shape = (self.kernel, self.kernel, channels, self.features)
        w = self.param("kernel", INITS[self.init_kind], shape)
        return w, self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None


@functools.partial(jax.jit, static_argnames=("stride", "padding"))  # layers of one shape are traced once
def conv2d(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    """Cross-correlates images with a kernel.

    Args:
      x: images [N, H, W, C].
      w: kernel [k, k, C, K].
      stride: step in both directions, pixels.
      padding: zeros added on each side, pixels.

    Returns:
      [N, H', W', K] with H' = (H + 2 padding - k) // stride + 1.
    """
    x, w = dist.vary_like(x, w), dist.vary_like(w, x)
    return FORWARD.bind(x, w, stride=stride, padding=padding)


def dilated_conv2d(x: jax.Array, w: jax.Array, dilation: int) -> jax.Array:
    """Cross-correlates images with a kernel whose taps lie `dilation` pixels apart; the map keeps its size.

    Pixels that lie a multiple of the dilation apart see each other alone. They are an image of their own here, so that
    this is the plain convolution of more and smaller images.

    Args:
      x: images [N, H, W, C].
      w: kernel [k, k, C, K], k odd.
      dilation: d, pixels.

    Returns:
      [N, H, W, K].
    """
    n, height, width, channels = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    x = jnp.pad(x, ((0, 0), (0, rows * dilation - height), (0, columns * dilation - width), (0, 0)))
    x = x.reshape(n, rows, dilation, columns, dilation, channels).transpose(0, 2, 4, 1, 3, 5)
    y = conv2d(x.reshape(-1, rows, columns, channels), w, 1, (w.shape[0] - 1) // 2)
    y = y.reshape(n, dilation, dilation, rows, columns, -1).transpose(0, 3, 1, 4, 2, 5)
    return y.reshape(n, rows * dilation, columns * dilation, -1)[:, :height, :width]


def _bilinear(name: str, on_xla: Callable[..., jax.Array], on_cpu: Callable[..., jax.Array]) -> Primitive:
    """A bilinear map of two arrays; under `vmap` both have one more axis in front."""

    def mapped(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return lambda a, b, **params: (jax.vmap if a.ndim == 5 else lambda f: f)(functools.partial(fn, **params))(a, b)

    def abstract(a: Any, b: Any, **params: Any) -> Any:
        shaped = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (a, b)]
        return a.update(shape=jax.eval_shape(functools.partial(mapped(on_xla), **params), *shaped).shape)

    def batched(args: Any, axes: Any, **params: Any) -> Any:
        size = next(x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
        front = [batching.bdim_at_front(x, axis, size) for x, axis in zip(args, axes, strict=True)]
        if front[0].ndim == 5:
            return primitive.bind(*front, **params), 0
        y = primitive.bind(*(x.reshape(-1, *x.shape[2:]) for x in front), **params)
        return y.reshape(size, -1, *y.shape[1:]), 0

    primitive = Primitive(name)
    primitive.def_impl(mapped(on_xla))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(mapped(on_xla), multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(mapped(on_cpu), multiple_results=False), platform="cpu")
    return primitive


FORWARD = _bilinear("conv2d", conv_xla.forward, conv_cpu.forward)
INPUT_GRADIENT = _bilinear("conv2d_input_gradient", conv_xla.input_gradient, conv_cpu.input_gradient)
WEIGHT_GRADIENT = _bilinear("conv2d_weight_gradient", conv_xla.weight_gradient, conv_cpu.weight_gradient)

# The cotangent comes first, then the two arguments, of which the one that is asked for is known by its shape alone.
ad.defbilinear(
    FORWARD,
    lambda g, x, w, **step: INPUT_GRADIENT.bind(g, w, size=x.aval.shape[-3:-1], **step),
    lambda g, x, w, **step: WEIGHT_GRADIENT.bind(x, g, kernel=w.aval.shape[-3], **step),
)
ad.defbilinear(
    INPUT_GRADIENT,
    lambda x, g, w, *, size, **step: FORWARD.bind(x, w, **step),
    lambda x, g, w, *, size, **step: WEIGHT_GRADIENT.bind(x, g, kernel=w.aval.shape[-3], **step),
)
ad.defbilinear(
    WEIGHT_GRADIENT,
    lambda w, x, g, *, kernel, **step: INPUT_GRADIENT.bind(g, w, size=x.aval.shape[-3:-1], **step),
    lambda w, x, g, *, kernel, **step: FORWARD.bind(x, w, **step),
)
