"""VISReg against reference numbers and closed forms; its statistic over replicas."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from ssl_jax import dist
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint.lejepa import invariance, unit_slices
from ssl_jax.methods.joint.visreg import VISReg, quantiles, regulariser


@pytest.fixture(scope="module")
def reference(golden):
    with np.load(golden.parent / "golden_modern" / "visreg.npz") as found:
        return dict(found)


def total(z, slices, **options):
    return sum(regulariser(z, slices, **options).values())


@pytest.mark.fast
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-7), ("float32", 1e-5)])
def test_agrees_with_the_reference(reference, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        z, slices = jnp.asarray(reference["z"], dtype), jnp.asarray(reference["slices"], dtype)
        terms = regulariser(z, slices)
        for ours, theirs in (("centre", "center"), ("scale", "scale"), ("shape", "shape")):
            assert terms[ours] == pytest.approx(float(reference[theirs]), rel=tolerance), ours
        regular, grad = jax.jit(jax.value_and_grad(total))(z, slices)
        assert regular == pytest.approx(float(reference["reg"]), rel=tolerance)
        wanted = reference["grad_reg"]
        assert np.abs(grad - wanted).max() <= 10 * tolerance * np.abs(wanted).max()
        # Had the deviation in the shape term a gradient, it would be another one.
        assert np.abs(grad - reference["grad_reg_without_detach"]).max() > 0.01 * np.abs(wanted).max()
        loss = 0.9 * regular + 0.1 * invariance(z, 2)
        assert loss == pytest.approx(float(reference["loss_lambda09"]), rel=tolerance)
        np.testing.assert_allclose(quantiles(8), reference["target"], rtol=1e-6)


@pytest.mark.fast
def test_epsilons_stand_where_each_source_has_them(reference):
    with jax.enable_x64(True):
        z, slices = jnp.asarray(reference["z"]), jnp.asarray(reference["slices"])
        authors, lightly = regulariser(z, slices), regulariser(z, slices, std_epsilon=0.0, shape_epsilon=1e-4)
        std = np.std(reference["z"], 1)
        assert authors["scale"] == pytest.approx(np.mean((std + 1e-6 - 1) ** 2), rel=1e-10)
        assert lightly["scale"] == pytest.approx(np.mean((std - 1) ** 2), rel=1e-10)
        assert abs(authors["shape"] - lightly["shape"]) > 1e-6


def test_collapsed_embeddings_have_a_finite_gradient():
    slices = unit_slices(jax.random.key(0), 5, 7)
    terms, grad = regulariser(jnp.ones((2, 8, 5)), slices), jax.grad(total)(jnp.ones((2, 8, 5)), slices)
    assert np.isfinite(grad).all()
    assert terms["scale"] == pytest.approx(1, abs=1e-5) and terms["shape"] == pytest.approx(0.569947, abs=1e-5)
    assert VISReg(None).chance(Info(1, 256, 1, 1)) == pytest.approx(0.9 * 1.963137, abs=1e-5)
    # The scale term pulls apart what is nearly the same.
    z = 1e-3 * jax.random.normal(jax.random.key(1), (1, 64, 5))
    moved = z - 10 * jax.grad(lambda z: regulariser(z, slices)["scale"])(z)
    assert regulariser(moved, slices)["scale"] < regulariser(z, slices)["scale"]


@pytest.mark.parametrize(("devices", "mapping"), [(2, "shard_map"), (8, "shard_map"), (8, "pmap")])
@pytest.mark.parametrize("count", [16, 5])
def test_replicas_have_the_terms_and_gradient_of_the_whole_batch(devices, mapping, count):
    """Also where the directions do not divide between them."""
    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        z, w = jnp.asarray(draw.normal(size=(8, 2, 5))), jnp.asarray(draw.normal(size=(5, 4)) / 2)
        slices = unit_slices(jax.random.key(0), 4, count)

        def loss(w, z, axis_name=None):
            return total((z @ w).swapaxes(0, 1), slices, axis_name=axis_name)

        def replica(w, z):
            found, grads = jax.value_and_grad(lambda w: dist.mean(loss(w, z, dist.AXIS)))(w)
            return found, dist.mean(grads)

        mesh = dist.make_mesh(jax.devices()[:devices])
        found = dist.map_replicas(replica, mesh, (P(), P(dist.AXIS)), P(), mapping=mapping)(w, z)
        for a, b in zip(found, jax.value_and_grad(loss)(w, z), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
