"""DCL and DCLW against reference numbers, closed forms and NT-Xent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny
from tiny import Pixels

from ssl_jax import dist, losses
from ssl_jax.methods.contract import Info, flat
from ssl_jax.methods.joint import dcl as dcl_module
from ssl_jax.methods.joint.dcl import DCL, decoupled_contrast, positive_weights
from ssl_jax.methods.joint.simclr import SimCLR, nt_xent
from ssl_jax.models.heads import MLP

DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-7), ("float32", 1e-5)])
SIGMAS = pytest.mark.parametrize("sigma", [0.0, 0.5])


def pairs(n=6, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, d))


@functools.partial(jax.jit, static_argnames=("temperature", "sigma"))
def value_and_gradients(z1, z2, *, temperature, sigma=0.0):
    def loss(z1, z2):
        return decoupled_contrast(z1, z2, temperature=temperature, sigma=sigma)[0]

    return jax.value_and_grad(loss, (0, 1))(z1, z2)


compiled = jax.jit(decoupled_contrast, static_argnames=("temperature", "sigma"))


def contrast(z1, z2, temperature=0.1, sigma=0.0):
    with jax.enable_x64(True):
        z1, z2 = jnp.asarray(z1, float), jnp.asarray(z2, float)
        return [float(x) for x in compiled(z1, z2, temperature=temperature, sigma=sigma)]


def numpy_contrast(z1, z2, temperature, sigma):
    """Anchor by anchor; a row without length counts as zero."""
    n, z = len(z1), np.concatenate([z1, z2])
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    weights = np.ones(n)
    if sigma:
        likely = np.exp([z[i] @ z[i + n] / sigma for i in range(n)])
        weights = 2 - likely / np.mean(likely)
    terms = []
    for i in range(2 * n):
        positive = z[i] @ z[(i + n) % (2 * n)] / temperature
        others = [z[i] @ z[j] / temperature for j in range(2 * n) if j % n != i % n]
        terms.append(np.log(sum(np.exp(others))) - weights[i % n] * positive)
    return np.mean(terms)


@pytest.mark.fast
@DTYPES
def test_loss_agrees_with_the_reference(golden, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"), np.load(golden / "decoupled_contrastive_tau0.1.npz") as ref:
        z1, z2 = jnp.asarray(ref["x0"], dtype), jnp.asarray(ref["x1"], dtype)
        loss, grads = value_and_gradients(z1, z2, temperature=0.1)
        assert loss.dtype == dtype
        assert abs(loss - ref["loss"]) <= tolerance * ref["loss"]
        for ours, theirs in zip(grads, (ref["grad0"], ref["grad1"]), strict=True):
            assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.fast
@SIGMAS
@pytest.mark.parametrize("case", ["plain", "duplicates", "zero rows", "two images"])
def test_loss_agrees_with_numpy(case, sigma):
    z1, z2 = pairs(2 if case == "two images" else 6)
    if case == "duplicates":
        z1[2], z1[3], z2[4], z2[3] = z1[0], z2[3], z1[0], z1[0]
    if case == "zero rows":
        z1[1], z2[1], z2[4] = 0, 0, 0
    assert contrast(z1, z2, 0.1, sigma)[0] == pytest.approx(numpy_contrast(z1, z2, 0.1, sigma), abs=1e-12)
    arrays = (jnp.asarray(z, jnp.float32) for z in (z1, z2))
    loss, grads = value_and_gradients(*arrays, temperature=0.1, sigma=sigma)
    assert np.isfinite(loss) and np.isfinite(grads).all()


@pytest.mark.fast
def test_loss_has_its_closed_forms():
    # Perfect positives at right angles to all else, and everything equal: ln(2N - 2) - 1 / tau and ln(2N - 2).
    assert contrast(np.eye(4), 3 * np.eye(4), 0.5) == pytest.approx([np.log(6) - 2, 1], abs=1e-12)
    same = np.tile([[1.0, 2.0]], (4, 1))
    assert contrast(same, same, 0.5) == pytest.approx([np.log(6), 0], abs=1e-12)
    # Equal positives weigh the same.
    assert contrast(np.eye(4), 3 * np.eye(4), 0.5, 0.5)[0] == pytest.approx(np.log(6) - 2, abs=1e-12)


@pytest.mark.fast
def test_gradient_of_a_pair_does_not_fade_as_it_becomes_easy():
    """The coupling that the paper removes: NT-Xent's gradient carries the factor 1 - p(positive), DCL's does not."""
    rotation = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    z1 = np.array([[1.0, 0.0], [-1.0, 0.0]])  # two images on opposite sides: an easy task
    with jax.enable_x64(True):
        z1, z2 = jnp.asarray(z1), jnp.asarray(z1 @ rotation)
        (_, (ours, _)) = value_and_gradients(z1, z2, temperature=0.1)
        theirs = jax.grad(lambda z: nt_xent(z, z2, temperature=0.1)[0])(z1)
        assert np.abs(theirs).max() < 1e-5 < 0.5 < np.abs(ours).max()


@pytest.mark.fast
def test_weights_favour_hard_pairs_and_carry_no_gradient():
    cosines = jnp.array([0.9, 0.5, 0.0, -0.7])
    weights = positive_weights(cosines, sigma=0.5)
    likely = np.exp(np.asarray(cosines) / 0.5)
    np.testing.assert_allclose(weights, 2 - likely / likely.mean(), rtol=1e-5)
    assert np.all(np.diff(weights) > 0) and np.mean(weights) == pytest.approx(1, abs=1e-6)
    assert not np.any(jax.jacobian(functools.partial(positive_weights, sigma=0.5))(cosines))


@pytest.mark.fast
@SIGMAS
@pytest.mark.parametrize(("devices", "mapping"), [(2, "shard_map"), (8, "shard_map"), (8, "pmap")])
def test_gathered_loss_is_the_loss_of_the_whole_batch(devices, mapping, sigma):
    with jax.enable_x64(True):
        z1, z2 = (jnp.asarray(z) for z in pairs(8))  # on eight devices, one image each
        w = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)))

        def loss(w, z1, z2, axis_name):
            return decoupled_contrast(z1 @ w, z2 @ w, temperature=0.2, sigma=sigma, axis_name=axis_name)

        def replica(w, z1, z2):
            value = lambda w: dist.mean(loss(w, z1, z2, dist.AXIS))  # noqa: E731
            (value, top1), grads = jax.value_and_grad(value, has_aux=True)(w)
            return value, top1, dist.mean(grads)

        specs = (P(), P(dist.AXIS), P(dist.AXIS))
        mesh = dist.make_mesh(jax.devices()[:devices])
        found = dist.map_replicas(replica, mesh, specs, P(), mapping=mapping)(w, z1, z2)
        (value, top1), grads = jax.value_and_grad(loss, has_aux=True)(w, z1, z2, None)
        for ours, theirs in zip(found, (value, top1, grads), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("concat_views", [True, False])
def test_networks_are_those_of_simclr(concat_views):
    """Parameters, embeddings and statistics are SimCLR's; only the loss differs, and with `sigma` once more."""
    view1, view2 = jax.random.normal(jax.random.key(3), (2, 8, 4, 4, 1))
    batch = {"view1": view1, "view2": view2, "position": jnp.arange(8)}
    info = Info(num_examples=8, batch_size=8, steps_per_epoch=1, total_steps=1)
    dcl = DCL(Pixels(), hidden=(16,), out=8, concat_views=concat_views)
    simclr = SimCLR(Pixels(), hidden=(16,), out=8, concat_views=concat_views)
    weighted = dataclasses.replace(dcl, sigma=0.5)
    params, state = dcl.init(jax.random.key(0), batch, info)

    def replica(params, state, batch):
        results = []
        for method in (simclr, dcl, weighted):
            loss, (after, aux) = method.loss(params, state, batch, rng=None, step=0, info=info)
            results.append((dist.mean(loss), after, dist.mean(flat(aux.metrics))))
        return results

    mesh = dist.make_mesh(jax.devices()[:2])
    results = dist.map_replicas(replica, mesh, (P(), P(), P(dist.AXIS)), P())(params, state, batch)
    for _, after, metrics in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, after, results[0][1])
        assert metrics == results[0][2]
    assert len({round(float(loss), 3) for loss, *_ in results}) == 3


class Bare(DCL):
    """Without BatchNorm at the end of its head, which would keep a spread of its own."""

    def _head(self):
        return MLP(self.hidden, self.out, False, False, "none")


def attraction(z1, z2, **_):
    """What is left without the other images."""
    cosine = jnp.sum(losses.l2_normalize(z1) * losses.l2_normalize(z2), 1).mean()
    return -2 * cosine, cosine


def test_without_negatives_it_collapses(monkeypatch):
    run = tiny.run("dcl", batch_size=32, epochs=2)
    bare = Bare(**vars(run.method))
    _, _, _, metrics = tiny.overfit(run, 80, bare)
    assert metrics[-1]["projection_std"] > 0.5 / bare.out**0.5 and metrics[-1]["contrastive_top1"] > 0.95
    monkeypatch.setattr(dcl_module, "decoupled_contrast", attraction)
    _, _, _, metrics = tiny.overfit(run, 80, bare)
    assert metrics[-1]["projection_std"] < 0.2 / bare.out**0.5
