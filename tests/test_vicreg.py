"""VICReg against reference numbers, NumPy and closed forms; what its variance term is for."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny
from tiny import generator

from ssl_jax import dist, models
from ssl_jax.methods import build
from ssl_jax.methods.joint.vicreg import vicreg_loss
from ssl_jax.recipes import get_config


def pairs(n=6, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, d))


@jax.jit
def value_and_gradients(z1, z2, weights):
    return jax.value_and_grad(lambda z1, z2: vicreg_loss(z1, z2, **weights), (0, 1), has_aux=True)(z1, z2)


def loss_of(z1, z2, **weights):
    """Loss and terms in float64."""
    with jax.enable_x64(True):
        (loss, terms), _ = value_and_gradients(jnp.asarray(z1, float), jnp.asarray(z2, float), weights)
        return float(loss), {name: float(term) for name, term in terms.items()}


def numpy_vicreg(z1, z2):
    """Column by column; a single row has no variance."""
    n, d = np.shape(z1)
    variance, redundancy = 0.0, 0.0
    for z in (z1, z2):
        centred = [c - np.mean(c) for c in np.transpose(z)]
        for i, a in enumerate(centred):
            variance += max(0, 1 - np.sqrt(np.sum(a * a) / max(n - 1, 1) + 1e-4)) / (2 * d)
            redundancy += sum((np.sum(a * b) / max(n - 1, 1)) ** 2 for j, b in enumerate(centred) if j != i) / d
    return 25 * np.mean((z1 - z2) ** 2) + 25 * variance + redundancy


@pytest.mark.fast
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-7), ("float32", 1e-5)])
def test_loss_agrees_with_the_reference(golden, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"), np.load(golden / "vicreg_25_25_1.npz") as ref:
        z1, z2 = jnp.asarray(ref["x0"], dtype), jnp.asarray(ref["x1"], dtype)
        (value, _), grads = value_and_gradients(z1, z2, {})
        assert value.dtype == dtype
        assert abs(value - ref["loss"]) <= tolerance * ref["loss"]
        for ours, theirs in zip(grads, (ref["grad0"], ref["grad1"]), strict=True):
            assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.fast
def test_loss_has_the_values_of_the_specification():
    a, b = generator(4, 3, 0.1), generator(4, 3, 0.9)
    loss, terms = loss_of(a, b)
    assert loss == pytest.approx(19.463716, abs=1e-6)
    assert terms == pytest.approx({"invariance": 0.316476, "variance": 0.454072, "covariance": 0.200016}, abs=1e-6)
    # The paper, and solo-learn, add the variance terms of the branches up.
    assert loss_of(a, b, std_coeff=50.0)[0] == pytest.approx(30.815507, abs=1e-6)
    # Paper and code agree on the covariance: over N - 1, its squares added up over D.
    cov = np.cov(a.T), np.cov(b.T)
    assert terms["covariance"] == pytest.approx(sum((c**2).sum() - (np.diag(c) ** 2).sum() for c in cov) / 3)


@pytest.mark.fast
@pytest.mark.parametrize("case", ["plain", "duplicates", "constant column", "far from zero", "one image"])
def test_loss_agrees_with_numpy(case):
    z1, z2 = pairs(n=1 if case == "one image" else 6)
    if case == "duplicates":
        z1[3:], z2[4] = z1[0], z2[0]
    if case == "constant column":
        z1[:, 2], z2[:, 0] = 7, -3
    if case == "far from zero":
        z1, z2 = z1 + 1000, z2 + 1000
    assert loss_of(z1, z2)[0] == pytest.approx(numpy_vicreg(z1, z2), rel=1e-10)
    # Float32 keeps five digits also where the mean is large, and gradients stay numbers.
    narrow = np.float32([z1, z2])
    (value, _), grads = value_and_gradients(*narrow, {})
    assert float(value) == pytest.approx(numpy_vicreg(*narrow.astype(float)), rel=1e-5)
    assert np.isfinite(grads).all()
    assert jax.eval_shape(vicreg_loss, *narrow.astype(jnp.bfloat16))[0].dtype == jnp.float32


@pytest.mark.fast
def test_loss_has_its_closed_forms():
    same = np.tile(generator(1, 5, 0.1), (6, 1))
    assert loss_of(same, same)[0] == pytest.approx(24.75, rel=1e-12)
    assert loss_of(same, same, std_coeff=50.0)[0] == pytest.approx(49.5, rel=1e-12)
    # Whitened and as wide as 1, the same in both views: nothing is left.
    z = np.linalg.qr(pairs()[0] - pairs()[0].mean(0))[0] * 5**0.5
    assert loss_of(z, z)[0] == pytest.approx(0, abs=1e-12)
    # The hinge sees only what is too narrow; nothing is normalised.
    assert loss_of(3 * z, 3 * z)[1]["variance"] == 0
    assert loss_of(0.5 * z, 0.5 * z)[1]["variance"] == pytest.approx(0.5, abs=1e-3)
    z1, z2 = pairs()
    assert loss_of(z2, z1)[0] == pytest.approx(loss_of(z1, z2)[0], rel=1e-12)
    order = np.random.default_rng(1).permutation(6)
    assert loss_of(z1[order], z2[order])[0] == pytest.approx(loss_of(z1, z2)[0], rel=1e-12)
    assert abs(loss_of(z1, z2[order])[0] - loss_of(z1, z2)[0]) > 0.01  # but it does see who belongs to whom


def over_replicas(devices, mapping, z1, z2, w):
    """Loss and gradient of shared weights, taken as the training step takes them."""

    def replica(w, z1, z2):
        def loss(w):
            return dist.mean(vicreg_loss(z1 @ w, z2 @ w, axis_name=dist.AXIS)[0])

        value, grads = jax.value_and_grad(loss)(w)
        return value, dist.mean(grads)

    specs = (P(), P(dist.AXIS), P(dist.AXIS))
    mesh = dist.make_mesh(jax.devices()[:devices])
    return dist.map_replicas(replica, mesh, specs, P(), mapping=mapping)(w, z1, z2)


@pytest.mark.fast
@pytest.mark.parametrize(("devices", "mapping"), [(2, "shard_map"), (8, "shard_map"), (8, "pmap")])
def test_replicas_have_the_loss_and_exact_gradient_of_the_whole_batch(devices, mapping):
    """Every term counts once: averaged rows of the invariance, global moments of the rest."""
    with jax.enable_x64(True):
        z1, z2 = (jnp.asarray(z) for z in pairs(8))  # on eight devices, one image each
        w = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)) / 4)
        loss, grads = jax.jit(jax.value_and_grad(lambda w: vicreg_loss(z1 @ w, z2 @ w)[0]))(w)
        found_loss, found_grads = over_replicas(devices, mapping, z1, z2, w)
        np.testing.assert_allclose(found_loss, loss, rtol=1e-12)
        np.testing.assert_allclose(found_grads, grads, rtol=1e-9, atol=1e-12)


@pytest.mark.fast
def test_expander_is_the_authors():
    config = get_config("vicreg", "imagenet")
    method = build.method(config.method, models.from_config(config.model))
    head = jax.eval_shape(lambda: method._head().init(jax.random.key(0), jnp.zeros((2, 2048)), train=True))["params"]
    assert sum(x.size for x in jax.tree.leaves(head)) == 151_044_096
    assert set(head["dense1"]) == {"kernel", "bias"} and set(head["out"]) == {"kernel"}
    assert method.chance(None) == pytest.approx(24.75)


def last_metrics(run, **changes):
    return tiny.overfit(run, 40, dataclasses.replace(run.method, **changes))[3][-1]


def test_without_variance_embeddings_shrink_and_without_covariance_they_repeat():
    authors = {"method.sim_coeff": 25.0, "method.std_coeff": 25.0, "method.cov_coeff": 1.0}
    run = tiny.run("vicreg", batch_size=32, **authors)
    right, no_variance, no_covariance = (
        last_metrics(run, **changes) for changes in ({}, {"std_coeff": 0.0}, {"cov_coeff": 0.0})
    )
    # The hinge is 1 - standard deviation: .67 at the start.
    assert right["variance"] < 0.3 < 0.85 < no_variance["variance"]
    assert no_covariance["variance"] < 0.3 and no_covariance["covariance"] > 5 * right["covariance"]
    assert right["projection_std"] > 0.5 / run.method.out**0.5
