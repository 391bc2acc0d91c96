"""Autoencoder and denoising autoencoder: error, noise, and what the network sees."""

import dataclasses

import grids
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import models
from ssl_jax.methods import build
from ssl_jax.methods.pretext.autoencoder import squared_error
from ssl_jax.methods.pretext.denoising_autoencoder import corrupt
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def images(count=6, side=16, channels=3):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, side, side, channels)), jnp.float32)


@pytest.mark.fast
def test_error_and_its_gradient():
    y, x = images(4), images(4)[::-1]
    value, gradient = jax.value_and_grad(squared_error)(y, x)
    np.testing.assert_allclose(value, np.mean((np.asarray(y) - np.asarray(x)) ** 2), rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * (y - x) / y.size, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper", "gaussian"])
def test_noise(kind):
    x, keys = images(), jax.random.split(jax.random.key(0), 6)
    noisy = jax.jit(lambda keys, x: corrupt(keys, x, kind, 0.3))
    y = np.asarray(noisy(keys, x))
    np.testing.assert_array_equal(noisy(keys[::-1], x[::-1]), y[::-1])  # an example's own
    np.testing.assert_array_equal(corrupt(keys, x, kind, 0.0), x)
    changed = y != x
    if kind == "gaussian":
        np.testing.assert_allclose((y - x).std(), 0.3, rtol=0.05)
        return
    assert abs(changed.mean() - 0.3) < 0.03
    assert not np.array_equal(changed[0], changed[1])
    if kind == "masking":
        assert not y[changed].any()
    else:
        for image, noise, where in zip(np.asarray(x), y, changed, strict=True):
            low = (noise[where] == image.min()).mean()
            assert set(noise[where]) == {image.min(), image.max()} and abs(low - 0.5) < 0.1


def test_what_is_masked_is_not_seen_but_asked_for():
    """With all values masked the answer is the same for all images, and the target still the clean one."""
    run, _, _ = tiny.compiled("denoising_autoencoder")
    ts, batch = tiny.fresh(run), tiny.batch_of(run, 4)
    blind = dataclasses.replace(run.method, amount=1.0)
    x, _, y, _ = blind._reconstruct(ts.params, ts.state["stats"], batch, jax.random.key(0), train=False)
    assert not np.any(x) and np.ptp(y, axis=0).max() < 1e-6
    value, (_, metrics) = jax.jit(tiny.loss_function(run, blind))(ts.params, ts.state, batch)
    assert value > 0.1  # even though input and answer hardly differ
    np.testing.assert_allclose(metrics["reconstruction_mse/chance"], np.square(batch["view"]).mean(), rtol=1e-5)


def test_pictures():
    run, _, _ = tiny.compiled("denoising_autoencoder")
    (picture,) = grids.assert_well_formed(run)
    assert np.abs(picture.images[:, 0] - picture.images[:, 2]).max() > 0.1  # the noise is seen


@pytest.mark.fast
def test_noise_without_meaning_is_refused():
    c = get_config("denoising_autoencoder", "digits")
    method = build.method(c.method, models.from_config(c.model))
    method.check(8, 8, 1)
    with pytest.raises(UserError, match="salt_and_pepper"):
        dataclasses.replace(method, noise="salt").check(8, 8, 1)
    dataclasses.replace(method, noise="gaussian", amount=2.0).check(8, 8, 1)  # a deviation, no share
    for noise, amount in (("masking", 1.1), ("masking", -0.1), ("gaussian", -0.1)):
        with pytest.raises(UserError, match="amount"):
            dataclasses.replace(method, noise=noise, amount=amount).check(8, 8, 1)


@pytest.mark.parametrize(
    ("name", "side", "grid"), [("convnet", 8, 2), ("resnet18", 32, 4), ("resnet18", 28, 4), ("vit_micro", 32, 2)]
)
@pytest.mark.fast
def test_maps_of_backbones(name, side, grid):
    """The map before pooling, of the same width as the features and without another parameter."""
    c = get_config("denoising_autoencoder", "cifar10_small").model
    c.name = name
    backbone = models.from_config(c)
    shape = jnp.zeros((2, side, side, 3))
    variables = jax.eval_shape(lambda: backbone.init(jax.random.key(0), shape, train=False))
    mapped = jax.eval_shape(lambda v: backbone.apply(v, shape, train=False, pool=False), variables)
    pooled = jax.eval_shape(lambda v: backbone.apply(v, shape, train=False), variables)
    assert mapped.shape == (2, grid, grid, pooled.shape[-1])


def test_features_are_the_mean_of_the_map():
    run, _, _ = tiny.compiled("autoencoder")
    ts, x = tiny.fresh(run), tiny.batch_of(run, 2)["view"]
    variables = {"params": ts.params["backbone"], "batch_stats": ts.state["stats"]["backbone"]}
    pooled = run.method.backbone.apply(variables, x, train=False)
    np.testing.assert_allclose(tiny.features(run.method, ts.params, ts.state, x), pooled, rtol=1e-6)
