"""Normalisation layers, with BatchNorm groups that do not depend on the number of devices."""

from collections.abc import Callable
import functools
import math
from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from ssl_jax import dist
from ssl_jax.models.conv import conv2d
from ssl_jax.runtime.errors import UserError

NORMS = ("batch", "group", "layer", "none")  # kinds of `Norm`


class BatchNorm(nn.Module):
    """Batch normalisation over groups of the global batch, with torch's conventions.

    With `groups` = 1 the statistics are those of the global batch ("SyncBN"). Otherwise group g is rows
    g N / G to (g + 1) N / G of the global batch, and the number of replicas must divide G. The batch is normalised
    with the biased variance; the running variance is the unbiased one, as in torch. Statistics are float32.

    Attributes:
      groups: number G of groups of the global batch.
      momentum: weight of the old running value (0.9 is torch's 0.1).
      epsilon: added to the variance.
      use_scale: whether to learn a scale.
      use_bias: whether to learn an offset.
      zero_scale: start the scale at zero (last layer of a residual block).
      dtype: type of the output.
    """

    groups: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    zero_scale: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        max_pool: Callable[[jax.Array], jax.Array] | None = None,
        kernel: jax.Array | None = None,
    ) -> jax.Array:
        """Normalises.

        Args:
          x: [N, ..., C].
          train: use the statistics of the batch, and update the running ones.
          max_pool: a maximum over places, of what is normalised. It is taken first, to the same values: normalisation
            rises with what goes in, or falls with it where a scale is negative, and then the signs are turned round.
            So only the pooled map is normalised, and read again in the backward pass.
          kernel: [1, 1, C, K], of a convolution of x [N, H, W, C] whose result is what is to be normalised. The mean
            and variance of a linear map follow from those of x, and with them the normalisation is a part of the
            kernel: the K channels are written once, normalised, and not read for statistics or, in the backward pass,
            for their gradients. It pays where K is more than C, since it takes the products of all pairs of C.

        Returns:
          x, or what `kernel` or `max_pool` makes of it, normalised.

        Raises:
          ValueError: `max_pool` and `kernel` at once.
        """
        if max_pool and kernel is not None:
            raise ValueError("BatchNorm takes a max_pool or a kernel, not both")
        channels = x.shape[-1] if kernel is None else kernel.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        scale = self._parameter("scale", self.use_scale, float(not self.zero_scale), channels)
        bias = self._parameter("bias", self.use_bias, 0.0, channels)
        options = {"max_pool": max_pool, "epsilon": self.epsilon, "dtype": self.dtype}
        # On a single replica outside a mapped axis there is no group to see: initialisation only makes shapes.
        if not train or self.is_initializing():
            x = x if kernel is None else _convolved(x, kernel)
            return normalise(x, running_mean.value, running_var.value, scale, bias, **options)
        groups = self._local_groups(len(x), lax.axis_size(dist.AXIS)) if self.groups > 1 else None
        y, mean, var = normalise_by_batch(x, kernel, scale, bias, groups=groups, **options)
        running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
        running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        return y

    def _parameter(self, name: str, wanted: bool, value: float, channels: int) -> jax.Array | float:
        if not wanted:
            return 1.0 if name == "scale" else 0.0
        return self.param(name, nn.initializers.constant(value), (channels,))

    def _local_groups(self, rows: int, replicas: int) -> int:
        local, rest = divmod(self.groups, replicas)
        if rest or rows % max(local, 1):
            raise UserError(
                f"{self.groups} BatchNorm groups cannot be laid over {replicas} devices of {rows} rows each; "
                "set config.model.bn_groups to 1 or to a multiple of the number of devices that divides the batch"
            )
        return local


# Compiled as functions of their own: of a network's many layers those of one shape are traced and lowered once.
@functools.partial(jax.jit, static_argnames=("groups", "max_pool", "epsilon", "dtype"))
def normalise_by_batch(
    x: jax.Array,
    kernel: jax.Array | None,
    scale: jax.Array | float,
    bias: jax.Array | float,
    *,
    groups: int | None,
    max_pool: Callable[[jax.Array], jax.Array] | None,
    epsilon: float,
    dtype: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises by the statistics of the batch.

    Args:
      x: [N, ..., C], the rows of one replica.
      kernel: as for `BatchNorm`.
      scale: [C].
      bias: [C].
      groups: that these rows are divided into; None: one group of the rows of all replicas.
      max_pool: as for `BatchNorm`.
      epsilon: added to the variance.
      dtype: type of the output.

    Returns:
      what is normalised; the mean [C] and the unbiased variance [C], averaged over all groups, without gradient.
    """
    several = groups is not None and groups > 1
    if kernel is not None and several:
        x, kernel = _convolved(x, kernel), None
    x, scale, sign = _turned(x, scale, max_pool)
    # One group on a replica needs no axis of its own, and XLA's CPU reductions are quicker without it.
    grouped = x.reshape(groups, -1, x.shape[-1]) if several else x
    axes = (1,) if several else tuple(range(x.ndim - 1))
    if kernel is None:
        wide = grouped.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, square = wide.mean(axes), jnp.square(wide).mean(axes)  # [C] or [groups, C]
    else:
        kernel = dist.vary_like(kernel, x)  # its gradients from both uses are summed before they cross replicas
        mean, square = moments_of_product(x, kernel[0, 0])
    if groups is None:
        mean, square = dist.mean((mean, square))
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    count = math.prod(grouped.shape[a] for a in axes) * (lax.axis_size(dist.AXIS) if groups is None else 1)
    channels = mean.shape[-1]
    moved_mean = dist.mean(sign * mean.reshape(-1, channels).mean(0))
    moved_var = dist.mean(var.reshape(-1, channels).mean(0)) * (count / max(count - 1, 1))
    x = max_pool(x) if max_pool else x
    factor, offset = _affine(mean, var, scale, bias, epsilon)
    y = _scaled(x, factor, offset, kernel)
    return y.astype(dtype), lax.stop_gradient(moved_mean), lax.stop_gradient(moved_var)


@functools.partial(jax.jit, static_argnames=("max_pool", "epsilon", "dtype"))
def normalise(x, mean, var, scale, bias, *, max_pool, epsilon, dtype):
    """Normalises x [N, ..., C] by statistics [C] that are known; the other arguments are `normalise_by_batch`'s."""
    x, scale, sign = _turned(x, scale, max_pool)
    factor, offset = _affine(sign * mean, var, scale, bias, epsilon)
    return ((max_pool(x) if max_pool else x) * factor + offset).astype(dtype)


def _turned(x, scale, max_pool):
    """Turns the signs of x and scale where the scale is negative, so that a maximum may be taken first."""
    if max_pool is None:
        return x, scale, 1.0
    sign = jnp.where(scale < 0, -1.0, 1.0)
    return x * sign.astype(x.dtype), scale * sign, sign


def _affine(mean, var, scale, bias, epsilon):
    factor = lax.rsqrt(var + epsilon) * scale
    return factor, bias - mean * factor


def _scaled(x, factor, offset, kernel):
    """Multiplies x [N, ..., C], or its 1x1 convolution, by a factor and adds an offset: [C], or [groups, C]."""
    if kernel is not None:
        return _convolved(x, kernel * factor) + offset
    if factor.ndim == 1:
        return x * factor + offset
    return (x.reshape(len(factor), -1, x.shape[-1]) * factor[:, None] + offset[:, None]).reshape(x.shape)


def _convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv2d(x, kernel.astype(x.dtype), 1, 0)


def moments_of_product(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean of y = x w and of its square over all rows, without y: w' E[x] and the diagonal of w' E[x x'] w.

    Args:
      x: [..., C].
      w: [C, K].

    Returns:
      both [K], float32 (float64 for float64 input).
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    places = tuple(range(x.ndim - 1))
    # Products of bfloat16 are exact in float32 as they are.
    precision = None if x.dtype == jnp.bfloat16 else "highest"
    second = jnp.tensordot(x, x, (places, places), precision=precision, preferred_element_type=wide)
    second, mean = second / (x.size // x.shape[-1]), x.astype(wide).mean(places)
    return jnp.matmul(mean, w, precision="highest"), jnp.sum(jnp.matmul(second, w, precision="highest") * w, 0)


class Norm(nn.Module):
    """The normalisation that a backbone is asked for by name.

    Attributes:
      kind: 'batch', 'group' (32 groups of channels, or the most below that divide them), 'layer' or 'none'.
      groups: BatchNorm groups of the global batch.
      zero_scale: start the scale at zero.
      dtype: type of the output.
    """

    kind: str = "batch"
    groups: int = 1
    zero_scale: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        max_pool: Callable[[jax.Array], jax.Array] | None = None,
        kernel: jax.Array | None = None,
    ) -> jax.Array:
        """Normalises x [N, ..., C] and takes `max_pool` of it, or its convolution with a `kernel` [1, 1, C, K]."""
        if self.kind == "batch":
            norm = BatchNorm(self.groups, zero_scale=self.zero_scale, dtype=self.dtype, name="batch")
            return norm(x, train, max_pool, kernel)
        x = x if kernel is None else _convolved(x, kernel)
        scale_init = nn.initializers.constant(float(not self.zero_scale))
        if self.kind == "group":
            x = nn.GroupNorm(math.gcd(32, x.shape[-1]), dtype=self.dtype, scale_init=scale_init, name="group")(x)
        elif self.kind == "layer":
            x = nn.LayerNorm(dtype=self.dtype, scale_init=scale_init, name="layer")(x)
        return max_pool(x) if max_pool else x


def norm_title(kind: str) -> str:
    """What a network's title says of its normalisation: nothing of the usual one."""
    return "" if kind == "batch" else f", norm '{kind}'"
