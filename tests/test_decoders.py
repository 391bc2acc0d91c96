"""Decoders and the discriminator: any size of map, no pattern of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.models.decoders import ChannelwiseDense, Decoder, MAEDecoder
from ssl_jax.models.discriminator import Discriminator

KEY = jax.random.key(0)


def maps(side, channels=3, count=2):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, side, side, channels)), jnp.float32)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("start", "side", "stages"), [(1, 8, 3), (4, 32, 3), (6, 44, 3), (7, 224, 5), (8, 8, 1), (9, 7, 1)]
)
def test_any_map_to_any_size(start, side, stages):
    decoder = Decoder((4,) * stages, side, 5)
    out, _ = jax.eval_shape(lambda: decoder.init_with_output(KEY, maps(start), train=True))
    assert out.shape == (2, side, side, 5) and out.dtype == jnp.float32


def test_a_flat_map_becomes_a_flat_image():
    """No checkerboard: away from the border all pixels are made alike, at a factor that is no whole number as well."""
    decoder = Decoder((6, 6), 23, 2)
    flat = jnp.ones((1, 8, 8, 3))
    out, _ = jax.jit(lambda: decoder.init_with_output(KEY, flat, train=False))()
    inner = out[0, 7:-7, 7:-7]
    np.testing.assert_allclose(inner, jnp.broadcast_to(inner[:1, :1], inner.shape), atol=1e-5)
    assert np.abs(inner).max() > 1e-2


def test_channels_stay_by_themselves():
    x = maps(3, 4)
    out, variables = ChannelwiseDense().init_with_output(KEY, x, train=True)
    kernel = np.asarray(variables["params"]["kernel"])
    for c in range(4):
        wanted = np.asarray(x[..., c]).reshape(2, 9) @ kernel[c]
        np.testing.assert_allclose(out[..., c].reshape(2, 9), wanted, atol=1e-5)
    assert 0.5 < kernel.std() * 3 < 1.5  # keeps the size of what comes in


def test_masked_patches_take_their_own_place():
    """With no blocks every output depends on one token: that of its own patch, or the mask's."""
    decoder = MAEDecoder(8, 0, 2, (2, 2), 5)
    tokens, restore = maps(1, 6)[:, 0].repeat(3, 1), jnp.array([[0, 2, 1, 3], [3, 1, 0, 2]])  # two of four are visible
    variables = decoder.init(KEY, tokens, train=True, restore=restore)
    moved = tokens.at[:, 2].add(1.0)  # the second visible patch
    before, after = (decoder.apply(variables, x, train=True, restore=restore) for x in (tokens, moved))
    changed = np.abs(after - before).max(-1) > 1e-4
    np.testing.assert_array_equal(changed, restore == 1)


@pytest.mark.fast
def test_discriminator_is_dcgans():
    judge = Discriminator((64, 128, 256, 512))
    out, variables = jax.eval_shape(lambda: judge.init_with_output(KEY, jnp.zeros((3, 64, 64, 3)), train=True))
    assert out.shape == (3,)
    sizes = [variables["params"][f"conv{i}"]["kernel"].shape for i in range(1, 5)]
    assert sizes == [(4, 4, 3, 64), (4, 4, 64, 128), (4, 4, 128, 256), (4, 4, 256, 512)]
    assert variables["params"]["out"]["kernel"].shape == (4 * 4 * 512, 1)
    assert set(variables["batch_stats"]) == {"norm2", "norm3", "norm4"}
