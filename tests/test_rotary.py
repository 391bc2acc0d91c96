"""Rotary positions."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from ssl_jax import models
from ssl_jax.models import rotary
from ssl_jax.models.vit_rotary import RotaryViT
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

KEY = jax.random.key(0)


@pytest.mark.fast
def test_authors_numbers(modern):
    given = modern("rope")
    found = rotary.angles((2, 3), 8)
    np.testing.assert_allclose(np.cos(found), given["dinov3_cos"], atol=1e-12)
    np.testing.assert_allclose(np.sin(found), given["dinov3_sin"], atol=1e-12)
    np.testing.assert_allclose(rotary.periods(64), given["dinov3_periods_d64"], rtol=1e-12)
    turned = rotary.turned(jnp.asarray(given["q"], jnp.float32)[None, :, None], rotary.turns((2, 3), 8, 0))
    np.testing.assert_allclose(turned[0, :, 0], given["dinov3_rotated"], atol=1e-6)
    np.testing.assert_allclose(turned[0, 0, 0, :2], [-0.391054, 1.223720], atol=1e-6)


@pytest.mark.fast
def test_products_depend_on_the_difference_of_places():
    q, k = np.random.default_rng(0).normal(size=(2, 1, 16)).astype(np.float32)
    by = rotary.turns((4, 4), 16, 0)
    q, k = (rotary.turned(jnp.broadcast_to(jnp.asarray(x)[None, :, None], (1, 16, 1, 16)), by)[0, :, 0] for x in (q, k))
    products = (q @ k.T).reshape(4, 4, 4, 4)
    np.testing.assert_allclose(products[0, 0, 1, 2], products[2, 1, 3, 3], rtol=1e-4)
    assert abs(products[0, 0, 1, 2] - products[0, 0, 2, 1]) > 1e-2


@pytest.mark.fast
def test_only_patches_are_turned_and_only_the_visible():
    whole, some = rotary.turns((2, 3), 8, 2), rotary.turns((2, 3), 8, 2, jnp.array([[5, 0], [1, 1]]))
    assert whole.shape == (2, 1, 8, 8) and some.shape == (2, 2, 4, 8)
    np.testing.assert_array_equal(whole[:, 0, :2], np.broadcast_to([[[1.0]], [[0.0]]], (2, 2, 8)))
    np.testing.assert_array_equal(some[:, 0, 2:], whole[:, 0, jnp.array([7, 2])])
    np.testing.assert_array_equal(some[:, 1, 3], whole[:, 0, 3])


@pytest.mark.fast
def test_changed_places():
    """Shifted first, then scaled; no change is what there is without one, and draws keep to their bounds."""
    change = rotary.Change(jnp.array([0.3, -0.2]), jnp.array([1.5, 0.5]))
    found = rotary.angles((2, 3), 8, change)
    rows, columns = np.meshgrid(
        (np.array([-0.5, 0.5]) + 0.3) * 1.5, (np.array([-2, 0, 2]) / 3 - 0.2) * 0.5, indexing="ij"
    )
    for part, places in ((slice(0, 2), rows), (slice(2, 4), columns)):
        np.testing.assert_allclose(found[:, part], 2 * np.pi * places.reshape(-1, 1) / np.array([1, 10]), rtol=1e-5)
    np.testing.assert_array_equal(found[:, 4:], found[:, :4])
    still = rotary.turns((2, 3), 8, 1, change=rotary.drawn_change(KEY, 0.0, 1.0, 1.0))
    np.testing.assert_allclose(still, rotary.turns((2, 3), 8, 1), atol=1e-5)
    keys = jax.random.split(KEY, 2000)
    shift, scale = jax.vmap(lambda key: rotary.drawn_change(key, 0.25, 1.0, 2.0))(keys)
    assert 0.24 < shift.max() <= 0.25 and -0.25 <= shift.min() < -0.24
    np.testing.assert_array_equal(scale[:, 0], scale[:, 1])  # both axes alike
    assert 0.5 <= scale.min() < 0.51 and 1.98 < scale.max() <= 2.0 and abs(jnp.log(scale).mean()) < 0.03
    _, scale = jax.vmap(lambda key: rotary.drawn_change(key, 0.0, 1.5, 1.0))(keys)
    assert abs(np.corrcoef(np.log(scale).T)[0, 1]) < 0.1 and 1.48 < scale.max() <= 1.5  # each by itself


def test_network():
    """Patches have places, registers have none, a grid of any size will do, and a loop computes the same."""
    model = RotaryViT("vit_micro", 2, registers=3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    params = jax.jit(lambda key: model.init(key, x, train=True))(KEY)["params"]
    assert "positions" not in params
    run = jax.jit(lambda params, x: model.apply({"params": params}, x, train=False))
    out = run(params, x)
    assert run(params, jnp.concatenate([x, x], 2)).shape == out.shape
    shuffled = {**params, "registers": params["registers"][:, ::-1]}
    np.testing.assert_allclose(run(shuffled, x), out, atol=1e-5)
    blocks = x.reshape(2, 4, 2, 4, 2, 3)[:, ::-1].reshape(x.shape)  # rows of patches in another order
    assert np.abs(run(params, blocks) - out).max() > 1e-4
    np.testing.assert_allclose(model.clone(scan=True).apply({"params": params}, x, train=False), out, atol=1e-5)
    seen = model.apply({"params": params}, x, train=False, visible=jnp.tile(jnp.arange(16), (2, 1)), pool=False)
    np.testing.assert_allclose(seen[:, 0], out, atol=1e-5)


def config(**changes):
    return ConfigDict({**get_config("simclr", "cifar10").model, "name": "vit_tiny_rope", "patch": 4, **changes})


@pytest.mark.fast
def test_a_config_makes_it():
    model = models.from_config(config())
    assert type(model) is RotaryViT and (model.size, model.heads) == ("vit_tiny", 3)
    with pytest.raises(UserError, match="has rotary ones"):
        models.from_config(config(positions="sincos"))
    with pytest.raises(UserError, match="multiple of 4"):
        models.from_config(config(heads=32))
