"""W-MSE against NumPy and closed forms; sub-batches; what whitening is for."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist
from ssl_jax.methods.joint import wmse
from ssl_jax.methods.joint.wmse import whiten, wmse_loss
from ssl_jax.runtime.errors import UserError

KEY = 7  # seed of the partition into sub-batches


def views(v=2, n=24, d=4, seed=0):
    """Correlated embeddings [V, n, D] of views that have something in common."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(1, n, d)) + rng.normal(size=(v, n, d))) @ rng.normal(size=(d, d)) + 2


@functools.partial(jax.jit, static_argnames=("sub_batch", "iterations"))
def value_and_gradient(z, position, seed, epsilon, *, sub_batch, iterations=1):
    def loss(z):
        options = {"sub_batch": sub_batch, "iterations": iterations, "epsilon": epsilon}
        return wmse_loss(z, position, jax.random.key(seed), **options)

    return jax.value_and_grad(loss)(z)


def loss_of(z, position=None, seed=KEY, epsilon=0.0, **options):
    """Loss in float64."""
    position = np.arange(z.shape[1]) if position is None else position
    with jax.enable_x64(True):
        return float(value_and_gradient(jnp.asarray(z, float), position, seed, epsilon, **options)[0])


def numpy_wmse(z, groups, epsilon=0.0):
    """Sub-batch by sub-batch and view by view, with inverses."""
    whitened = np.zeros_like(z)
    for view, rows in itertools.product(range(len(z)), groups):
        x = z[view, rows] - z[view, rows].mean(0)
        cov = (1 - epsilon) * np.cov(x.T) + epsilon * np.eye(x.shape[1])
        for row, sample in zip(rows, x, strict=True):
            u = np.linalg.inv(np.linalg.cholesky(cov)) @ sample
            whitened[view, row] = u / np.linalg.norm(u)
    pairs = itertools.combinations(whitened, 2)
    return np.mean([2 - 2 * np.mean(np.sum(a * b, 1)) for a, b in pairs])


def groups_of(n, size, iteration=0, seed=KEY):
    order = dist.random_order(jax.random.fold_in(jax.random.key(seed), iteration), jnp.arange(n))
    return np.asarray(order).reshape(-1, size)


@pytest.mark.fast
@pytest.mark.parametrize("case", ["plain", "duplicates", "narrow column", "shrunk", "whole batch", "four views"])
def test_loss_agrees_with_numpy(case):
    z, size, epsilon = views(4 if case == "four views" else 2), 8, 0.0
    if case == "duplicates":
        z[0, 1:5] = z[0, 0]
        size = 24
    if case == "narrow column":
        z[:, :, 1] *= 1e-4
    if case == "shrunk":
        z[:, :, 1] = 3  # no variance at all: only shrinkage saves it
        epsilon = 1e-3
    if case == "whole batch":
        size = 24
    exact = numpy_wmse(z, groups_of(24, size), epsilon)
    sub_batch = 128 if case == "whole batch" else size  # clipped to what there is
    assert loss_of(z, sub_batch=sub_batch, epsilon=epsilon) == pytest.approx(exact, rel=1e-9)
    value, grad = value_and_gradient(np.float32(z), np.arange(24), KEY, epsilon, sub_batch=sub_batch)
    assert float(value) == pytest.approx(exact, rel=1e-3) and np.isfinite(grad).all()


@pytest.mark.fast
def test_iterations_average_over_partitions():
    z = views()
    losses = [numpy_wmse(z, groups_of(24, 8, i)) for i in range(3)]
    assert loss_of(z, sub_batch=8, iterations=3) == pytest.approx(np.mean(losses), rel=1e-9)
    assert np.ptp(losses) > 1e-3  # partitions differ


@pytest.mark.fast
def test_gradient_is_the_slope():
    z, options = views(), {"sub_batch": 8, "epsilon": 0.01}
    with jax.enable_x64(True):
        grad = np.asarray(value_and_gradient(jnp.asarray(z), np.arange(24), KEY, **options)[1])
    for direction in np.random.default_rng(1).normal(size=(3, *z.shape)):
        there, here = (loss_of(z + h * direction, **options) for h in (1e-5, -1e-5))
        assert (there - here) / 2e-5 == pytest.approx(np.sum(grad * direction), rel=1e-6, abs=1e-9)


@pytest.mark.fast
def test_whitened_samples_are_white():
    z = jnp.asarray(views(), jnp.float32)
    w = jax.jit(whiten)(z)
    for view in w:
        np.testing.assert_allclose(view.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(np.cov(view.T), np.eye(4), atol=1e-4)
    # W is lower triangular: the first component is only shifted and scaled, its sign kept.
    np.testing.assert_allclose(np.corrcoef(z[0, :, 0], w[0, :, 0])[0, 1], 1, atol=1e-5)
    assert jax.eval_shape(whiten, z.astype(jnp.bfloat16)).dtype == jnp.float32
    with pytest.raises(UserError, match=r"whiten 4 dimensions with 4 samples: config\.method\.out"):
        whiten(z[:, :4])
    assert np.isfinite(jax.jit(whiten)(z[:, :5])).all()


@pytest.mark.fast
def test_loss_has_its_closed_forms():
    z = views()
    assert loss_of(np.stack([z[0], z[0]]), sub_batch=8) == pytest.approx(0, abs=1e-9)
    assert loss_of(z[::-1], sub_batch=8) == pytest.approx(loss_of(z, sub_batch=8), rel=1e-12)
    # Whitening cancels what a view's components are shifted and scaled by.
    moved = np.stack([z[0] * [3, 0.1, 1, 5] - 4, z[1]])
    assert loss_of(moved, sub_batch=8) == pytest.approx(loss_of(z, sub_batch=8), rel=1e-9)
    unrelated = np.random.default_rng(2).normal(size=(20, 2, 24, 4))
    assert np.mean([loss_of(z, sub_batch=8) for z in unrelated]) == pytest.approx(2, abs=0.1)


@pytest.mark.fast
def test_sub_batches_follow_positions_not_rows():
    z, rows = views(), np.random.default_rng(3).permutation(24)
    assert loss_of(z[:, rows], position=rows, sub_batch=8) == pytest.approx(loss_of(z, sub_batch=8), rel=1e-9)
    assert abs(loss_of(z, seed=KEY + 1, sub_batch=8) - loss_of(z, sub_batch=8)) > 1e-4  # drawn anew every update
    order = np.asarray(dist.random_order(jax.random.key(0), jnp.arange(24)))
    np.testing.assert_array_equal(rows[np.asarray(dist.random_order(jax.random.key(0), jnp.asarray(rows)))], order)
    assert sorted(order) == list(range(24)) and (order != np.arange(24)).sum() > 12
    with pytest.raises(UserError, match=r"cut 24 images into sub-batches of 9: make config\.batch_size"):
        loss_of(z, sub_batch=9)


@pytest.mark.parametrize(("devices", "mapping"), [(2, "shard_map"), (8, "shard_map"), (8, "pmap")])
def test_replicas_have_the_loss_and_exact_gradient_of_the_whole_batch(devices, mapping):
    """Sub-batches of eight out of 24 images, which never lie on one replica alone."""

    def loss(w, z, position, axis_name=None):
        return wmse_loss(z @ w, position, jax.random.key(KEY), sub_batch=8, iterations=2, axis_name=axis_name)

    def replica(w, z, position):
        value, grads = jax.value_and_grad(lambda w: dist.mean(loss(w, z, position, dist.AXIS)))(w)
        return value, dist.mean(grads)

    with jax.enable_x64(True):
        z, w = jnp.asarray(views()), jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
        position = jnp.arange(24)
        wanted, wanted_grads = jax.jit(jax.value_and_grad(loss))(w, z, position)
        mesh = dist.make_mesh(jax.devices()[:devices])
        specs = (P(), P(None, dist.AXIS), P(dist.AXIS))
        found, grads = dist.map_replicas(replica, mesh, specs, P(), mapping=mapping)(w, z, position)
        np.testing.assert_allclose(found, wanted, rtol=1e-9)
        np.testing.assert_allclose(grads, wanted_grads, rtol=1e-7, atol=1e-10)


@functools.cache
def digits():
    return tiny.run("wmse", batch_size=32)


@pytest.mark.fast
def test_views_are_as_many_as_asked_for():
    assert list(digits().method.views()) == ["view1", "view2"]
    four = dataclasses.replace(digits().method, num_views=4)
    assert list(four.views()) == ["view1", "view2", "view3", "view4"]
    with pytest.raises(UserError, match=r"num_views is 1: W-MSE compares views"):
        dataclasses.replace(four, num_views=1).check(8, 8, 1)


def test_without_whitening_embeddings_collapse(monkeypatch):
    _, _, losses, right = tiny.overfit(digits(), 40)
    monkeypatch.setattr(wmse, "whiten", lambda z, epsilon=0.0: z)
    _, _, _, broken = tiny.overfit(digits(), 40)
    healthy = 0.5 / digits().method.out ** 0.5
    assert losses[-1] < 1 and right[-1]["projection_std"] > healthy
    assert broken[-1]["projection_std"] < 0.2 * healthy
