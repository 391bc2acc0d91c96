"""The exact GELU, and its derivatives where JAX checks what is replicated."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import scipy.stats

from ssl_jax import dist
from ssl_jax.models.gelu import gelu

pytestmark = pytest.mark.fast
X = jnp.linspace(-8.0, 8.0, 128)


def test_it_is_flax_s():
    for dtype in (jnp.float32, jnp.bfloat16):
        x = X.astype(dtype)
        np.testing.assert_array_equal(gelu(x), nn.gelu(x, approximate=False))


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_derivatives_of_both_orders(mapping):
    def derivatives(x):
        first = jax.grad(lambda x: gelu(x).sum())
        return gelu(x), first(x), jax.jvp(first, (x,), (jnp.ones_like(x),))[1], jax.grad(lambda x: first(x).sum())(x)

    with jax.enable_x64(True):
        x = np.linspace(-8.0, 8.0, 128)
        mapped = dist.map_replicas(
            derivatives, dist.make_mesh(jax.devices()[:4]), (P(dist.AXIS),), P(dist.AXIS), mapping=mapping
        )
        value, first, forward, second = mapped(x)
    cdf, pdf = scipy.stats.norm.cdf(x), scipy.stats.norm.pdf(x)
    np.testing.assert_allclose(value, x * cdf, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(first, cdf + x * pdf, rtol=1e-10, atol=1e-15)
    for found in (forward, second):
        np.testing.assert_allclose(found, (2 - x * x) * pdf, rtol=1e-9, atol=1e-14)
