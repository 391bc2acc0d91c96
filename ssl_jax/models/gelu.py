"""The exact GELU."""

import math

import jax
import jax.numpy as jnp


@jax.custom_jvp
def _normal_cdf(x: jax.Array) -> jax.Array:
    """The normal distribution's cumulative function.

    The derivative stands here, since JAX 0.12 takes that of `erfc` by a polynomial which it cannot trace under
    shard_map's replication checking.
    """
    return 0.5 * jax.lax.erfc(-x * jnp.asarray(math.sqrt(0.5), x.dtype))


@_normal_cdf.defjvp
def _normal_cdf_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (t,) = primals, tangents
    density = jnp.exp(-0.5 * x * x) * jnp.asarray(1 / math.sqrt(2 * math.pi), x.dtype)
    return _normal_cdf(x), density * t


def gelu(x: jax.Array) -> jax.Array:
    """The input times the normal distribution's cumulative function (Hendrycks & Gimpel 2016, sec. 2)."""
    return x * _normal_cdf(x)
