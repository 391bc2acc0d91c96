"""Grids of patches, and their augmentation one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.augment import patches
from ssl_jax.augment.view import View

pytestmark = pytest.mark.fast


def images(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


@pytest.mark.parametrize(("size", "stride"), [(3, 3), (4, 2), (3, 2), (2, 5)])
def test_grid_is_cut_row_by_row(size, stride):
    x = images(2, 9, 7, 3)
    found = patches.grid(x, size, stride)
    corners = [(i, j) for i in range(0, 9 - size + 1, stride) for j in range(0, 7 - size + 1, stride)]
    wanted = np.stack([x[:, i : i + size, j : j + size] for i, j in corners], 1)
    np.testing.assert_array_equal(found, wanted)
    assert patches.side(9, size, stride) * patches.side(7, size, stride) == len(corners)


def test_a_grid_without_room_is_empty():
    assert patches.side(3, 4, 2) == 0
    assert patches.side(4, 4, 2) == patches.side(5, 4, 2) == 1
    assert patches.grid(images(2, 3, 8, 1), 4, 4).shape == (2, 0, 4, 4, 1)


def test_every_patch_is_drawn_on_its_own():
    x = jnp.broadcast_to(images(1, 1, 6, 6, 1), (2, 5, 6, 6, 1))
    view = View(size=4, crop="shift", pad=0, order=("crop",), mean=(0.5,), std=(0.25,))
    keys = jax.random.split(jax.random.key(0), 2)
    found = np.asarray(jax.jit(patches.render_patches, static_argnums=0)(view, keys, x)).reshape(10, 4, 4, 1)
    cuts = np.stack([x[0, 0, i : i + 4, j : j + 4] for i in range(3) for j in range(3)])
    which = [np.argmin(np.abs((cuts - 0.5) / 0.25 - patch).max((1, 2, 3))) for patch in found]
    np.testing.assert_allclose(found, (cuts[which] - 0.5) / 0.25, rtol=1e-5, atol=1e-6)
    assert len(set(which[:5])) > 1 and which[:5] != which[5:]
    # An image's patches do not depend on its neighbours in the batch.
    alone = patches.render_patches(view, keys[1:], x[1:])
    np.testing.assert_allclose(alone.reshape(5, 4, 4, 1), found[5:], rtol=1e-6)


def test_the_order_is_each_images_own_and_uniform():
    count = 3000
    x = jnp.broadcast_to(jnp.arange(3)[:, None], (count, 3, 1))
    found = np.asarray(patches.permuted(jax.random.split(jax.random.key(0), count), x))[..., 0]
    orders, times = np.unique(found, axis=0, return_counts=True)
    assert orders.tolist() == [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    assert np.abs(times - count / 6).max() < 4 * (count * 5 / 36) ** 0.5
