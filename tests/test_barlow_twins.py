"""Barlow Twins against reference numbers, NumPy and closed forms; what its redundancy term is for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny
from tiny import generator

from ssl_jax import dist, models
from ssl_jax.methods import build
from ssl_jax.methods.joint.barlow_twins import barlow_twins_loss, cross_correlation, standardize
from ssl_jax.recipes import get_config, presets


def pairs(n=6, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, d))


@jax.jit
def value_and_gradients(z1, z2, lambd):
    return jax.value_and_grad(lambda z1, z2: barlow_twins_loss(z1, z2, lambd=lambd)[0], (0, 1))(z1, z2)


def loss_of(z1, z2, lambd=0.0051):
    """Loss in float64."""
    with jax.enable_x64(True):
        return float(value_and_gradients(jnp.asarray(z1, float), jnp.asarray(z2, float), lambd)[0])


def numpy_barlow(z1, z2, lambd):
    """Entry by entry."""
    columns = []
    for z in (z1, z2):
        columns.append([(c - c.mean()) / np.sqrt(((c - c.mean()) ** 2).mean() + 1e-5) for c in np.transpose(z)])
    total = 0.0
    for i, a in enumerate(columns[0]):
        for j, b in enumerate(columns[1]):
            c = np.mean(a * b)
            total += (1 - c) ** 2 if i == j else lambd * c**2
    return total


@pytest.mark.fast
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-7), ("float32", 1e-5)])
def test_loss_agrees_with_the_reference(golden, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"), np.load(golden / "barlow_twins_lambda0.005.npz") as ref:
        z1, z2 = jnp.asarray(ref["x0"], dtype), jnp.asarray(ref["x1"], dtype)
        value, grads = value_and_gradients(z1, z2, 0.005)
        assert value.dtype == dtype
        assert abs(value - ref["loss"]) <= tolerance * ref["loss"]
        for ours, theirs in zip(grads, (ref["grad0"], ref["grad1"]), strict=True):
            assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.fast
def test_loss_has_the_values_of_the_specification():
    a, b = generator(4, 3, 0.1), generator(4, 3, 0.9)
    on_diagonal = loss_of(a, b, 0.0)
    assert on_diagonal == pytest.approx(1.662611, abs=1e-6)
    assert loss_of(a, b, 1.0) - on_diagonal == pytest.approx(3.325444, abs=1e-6)
    assert loss_of(a, b, 0.0051) == pytest.approx(1.679571, abs=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("case", ["plain", "duplicates", "constant column", "far from zero", "one image"])
def test_loss_agrees_with_numpy(case):
    z1, z2 = pairs(n=1 if case == "one image" else 6)
    if case == "duplicates":
        z1[3:], z2[4] = z1[0], z2[0]
    if case == "constant column":
        z1[:, 2], z2[:, 0] = 7, -3
    if case == "far from zero":
        z1, z2 = z1 + 1000, z2 - 1000
    assert loss_of(z1, z2, 0.3) == pytest.approx(numpy_barlow(z1, z2, 0.3), rel=1e-10)
    # Float32 keeps five digits also where the mean is large, and gradients stay numbers.
    narrow = np.float32([z1, z2])
    value, grads = value_and_gradients(*narrow, 0.3)
    exact = numpy_barlow(*narrow.astype(float), 0.3)
    assert float(value) == pytest.approx(exact, rel=1e-5) and np.isfinite(grads).all()


@pytest.mark.fast
def test_loss_has_its_closed_forms():
    z1, z2 = pairs()
    assert loss_of(z1, z1, 0.0) < 1e-6 * 5  # not zero: C_ii is short of 1 by the BatchNorm's epsilon
    assert loss_of(np.ones((6, 5)), 2 * np.ones((6, 5))) == 5  # collapse: C = 0, the loss is D
    white = np.linalg.qr(z1 - z1.mean(0))[0]
    assert loss_of(white, white, 1.0) < 1e-6
    assert loss_of(z2, z1) == pytest.approx(loss_of(z1, z2), rel=1e-12)  # symmetric: C is transposed
    assert loss_of(1e3 * z1 + 4, z2) == pytest.approx(loss_of(z1, z2), rel=1e-4)  # blind to scale and offset
    order = np.random.default_rng(1).permutation(6)
    assert loss_of(z1[order], z2[order]) == pytest.approx(loss_of(z1, z2), rel=1e-12)
    assert abs(loss_of(z1, z2[order]) - loss_of(z1, z2)) > 0.01  # but it does see who belongs to whom
    # Independent: C_ij has variance 1 / N.
    z1, z2 = pairs(4000, 20)
    assert loss_of(z1, z2, 0.5) == pytest.approx(20 + 20 / 4000 + 0.5 * 20 * 19 / 4000, rel=0.02)


@pytest.mark.fast
def test_c_is_the_correlation():
    z1, z2 = pairs(30, 4)
    c = jax.jit(cross_correlation)(np.float32(z1), np.float32(9 * z2 + 4))
    np.testing.assert_allclose(c, np.corrcoef(z1.T, z2.T)[:4, 4:], atol=1e-4)
    half = jax.jit(standardize)(jnp.asarray(z1, jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(np.square(half).mean(0), 1, atol=1e-4)  # biased variance


def over_replicas(devices, mapping, z1, z2, w):
    """Loss, C and gradient of shared weights, taken as the training step takes them."""

    def replica(w, z1, z2):
        def loss(w):
            value, c = barlow_twins_loss(z1 @ w, z2 @ w, lambd=0.3, axis_name=dist.AXIS)
            return dist.mean(value), dist.mean(c)

        (value, c), grads = jax.value_and_grad(loss, has_aux=True)(w)
        return value, c, dist.mean(grads)

    specs = (P(), P(dist.AXIS), P(dist.AXIS))
    mesh = dist.make_mesh(jax.devices()[:devices])
    return dist.map_replicas(replica, mesh, specs, P(), mapping=mapping)(w, z1, z2)


@pytest.mark.fast
@pytest.mark.parametrize(("devices", "mapping"), [(2, "shard_map"), (8, "shard_map"), (8, "pmap")])
def test_replicas_have_the_loss_and_exact_gradient_of_the_whole_batch(devices, mapping):
    with jax.enable_x64(True):
        z1, z2 = (jnp.asarray(z) for z in pairs(8))  # on eight devices, one image each
        w = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)))

        @jax.jit
        def whole(w):
            return barlow_twins_loss(z1 @ w, z2 @ w, lambd=0.3)

        (loss, c), grads = jax.value_and_grad(whole, has_aux=True)(w)
        found_loss, found_c, found_grads = over_replicas(devices, mapping, z1, z2, w)
        np.testing.assert_allclose(found_loss, loss, rtol=1e-12)
        np.testing.assert_allclose(found_c, c, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found_grads, grads, rtol=1e-9, atol=1e-12)


@pytest.mark.fast
def test_projector_and_groups_are_the_authors():
    config = get_config("barlow_twins", "imagenet")
    method = build.method(config.method, models.from_config(config.model))
    head = jax.eval_shape(lambda: method._head().init(jax.random.key(0), jnp.zeros((2, 2048)), train=True))["params"]
    assert sum(x.size for x in jax.tree.leaves(head)) == 151_027_712
    labels = method.groups({"backbone": {}, "projector": head})["projector"]
    assert jax.tree.leaves(labels["dense1"]) == jax.tree.leaves(labels["out"]) == ["default"]
    assert set(jax.tree.leaves([labels["norm1"], labels["norm2"]])) == {"vectors"}
    # The authors' .0048 was tuned with 1 / 32 of the gradient.
    assert config.optim.vectors.learning_rate == pytest.approx(0.00015)
    assert config.optim.default.learning_rate == 0.2


@pytest.mark.fast
def test_presets_have_both_groups():
    for preset in presets("barlow_twins"):
        assert set(get_config("barlow_twins", preset).optim) == {"default", "vectors"}
    lightly = get_config("barlow_twins", "cifar10_lightly")
    assert (lightly.method.hidden, lightly.method.out, lightly.method.lambd) == ((2048,), 2048, 0.005)
    assert lightly.optim.vectors == lightly.optim.default


@functools.cache
def digits():
    return tiny.run("barlow_twins", batch_size=32)


def effective_components(redundancy):
    """Participation ratio D^2 / |C|^2 of a correlation matrix whose off-diagonal entries have that size."""
    d = digits().method.out
    return d / (1 + (d - 1) * redundancy**2)


def test_without_the_redundancy_term_components_say_the_same():
    _, _, losses, right = tiny.overfit(digits(), 40)
    _, _, broken_losses, broken = tiny.overfit(digits(), 40, dataclasses.replace(digits().method, lambd=0.0))
    assert losses[-1] < 0.3 * losses[0] and broken_losses[-1] < 0.3 * broken_losses[0]
    # Views agree either way, but of 64 components only a few are left.
    assert min(right[-1]["correlation"], broken[-1]["correlation"]) > 0.8
    left = [effective_components(metrics[-1]["redundancy"]) for metrics in (right, broken)]
    assert left[0] > 8 > 5 > left[1]
    assert right[-1]["projection_std"] > 0.5 / digits().method.out ** 0.5
