"""LeJEPA against reference numbers, closed forms and NumPy; its statistic over replicas."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint.lejepa import LeJEPA, invariance, quadrature, sigreg, unit_slices
from ssl_jax.runtime.errors import UserError

INFO = Info(1000, 256, 4, 4)


@pytest.fixture(scope="module")
def reference(golden):
    with np.load(golden.parent / "golden_modern" / "lejepa.npz") as found:
        return dict(found)


def value(z, slices, *grid, **options):
    with jax.enable_x64(True):
        t, weights = quadrature(*grid)
        return float(sigreg(jnp.asarray(z, float), jnp.asarray(slices, float), t, weights, **options))


@pytest.mark.fast
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_agrees_with_the_reference(reference, dtype, tolerance):
    def loss(z, slices, weight):
        return (1 - weight) * invariance(z, 2) + weight * sigreg(z, slices, *quadrature())

    with jax.enable_x64(dtype == "float64"):
        z, slices = jnp.asarray(reference["z"], dtype), jnp.asarray(reference["slices"], dtype)
        found, grad = jax.jit(jax.value_and_grad(loss))(z, slices, 0.05)
        assert found.dtype == dtype
        assert found == pytest.approx(float(reference["loss_lambda005_globals"]), rel=tolerance)
        wanted = reference["grad_loss_lambda005_globals"]
        assert np.abs(grad - wanted).max() <= 10 * tolerance * np.abs(wanted).max()
        regular, grad = jax.jit(jax.value_and_grad(loss))(z, slices, 1.0)
        assert regular == pytest.approx(float(reference["sigreg"]), rel=tolerance)
        assert np.abs(grad - reference["grad_sigreg"]).max() <= 10 * tolerance * np.abs(reference["grad_sigreg"]).max()
        assert invariance(z, 2) == pytest.approx(float(reference["invariance_globals"]), rel=tolerance)
        assert invariance(z, 3) == pytest.approx(float(reference["invariance_all"]), rel=tolerance)
        minimal = 0.98 * invariance(z, 3) + 0.02 * sigreg(z, slices, *quadrature())
        assert minimal == pytest.approx(float(reference["loss_lambda002_all"]), rel=tolerance)


@pytest.mark.fast
def test_knots_are_those_of_each_source(reference):
    t, weights = quadrature()
    np.testing.assert_allclose(t, reference["t"])
    np.testing.assert_allclose(weights * np.exp(-(t**2) / 2), reference["weights"], rtol=1e-12)
    z, slices = reference["z"], reference["slices"]
    assert value(z, slices, 5.0, 17, False) == pytest.approx(float(reference["sigreg_paper_grid"]), rel=1e-9)
    # The integral over all of the line has a closed form.
    assert value(z, slices, 12.0, 200) == pytest.approx(reference["statistic_exact"].mean(), rel=1e-9)
    # eb_jepa: ten knots, and no factor N.
    plain = value(z, slices, 3.0, 10, False, times_n=False)
    assert plain == pytest.approx(value(z, slices, 3.0, 10, False) / 8, rel=1e-12)
    assert plain == pytest.approx(value(z, slices) / 8, rel=0.05)


@pytest.mark.fast
def test_mean_over_shards_is_another_number(reference):
    """What each device would have of its own rows alone."""
    z, slices = reference["z"], reference["slices"]
    shards = np.mean([value(half, slices) for half in (z[:, :4], z[:, 4:])])
    assert shards == pytest.approx(float(reference["wrong_mean_of_shards"]), rel=1e-9)
    assert abs(shards - value(z, slices)) > 0.5


@pytest.mark.fast
def test_levels_are_those_of_normal_and_of_collapsed_embeddings():
    healthy, collapsed = LeJEPA(None).sigreg_levels(INFO)
    assert healthy == pytest.approx(1.052464155, rel=1e-8)
    assert collapsed == pytest.approx(0.402047580 * 256, rel=1e-8)
    slices = unit_slices(jax.random.key(0), 16, 64)
    np.testing.assert_allclose(np.linalg.norm(slices, axis=0), 1, rtol=1e-6)
    z = np.random.default_rng(0).normal(size=(20, 256, 16))
    assert value(z, slices) == pytest.approx(healthy, rel=0.05)
    assert value(0 * z, slices) == pytest.approx(collapsed, rel=1e-8)
    assert LeJEPA(None).chance(INFO) == pytest.approx(0.05 * collapsed)
    words = LeJEPA(None).reading({"sigreg": 7.0}, INFO)
    assert words == "SIGReg is 7: 1.05 is healthy, 103 collapsed."
    other = LeJEPA(None, times_n=False).sigreg_levels(INFO)
    assert other == pytest.approx((healthy / 256, collapsed / 256))


@pytest.mark.fast
def test_has_no_gradient_where_all_embeddings_are_zero():
    slices = unit_slices(jax.random.key(0), 5, 7)
    grad = jax.grad(lambda z: sigreg(z, slices, *quadrature()))(jnp.zeros((2, 8, 5)))
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.fast
def test_sees_no_rotation():
    draw = np.random.default_rng(0)
    z, slices = draw.normal(size=(2, 8, 5)), np.asarray(unit_slices(jax.random.key(0), 5, 7))
    turn = np.linalg.qr(draw.normal(size=(5, 5)))[0]
    assert value(z @ turn, turn.T @ slices) == pytest.approx(value(z, slices), rel=1e-9)


@pytest.mark.fast
@pytest.mark.parametrize(("devices", "mapping"), [(2, "shard_map"), (8, "shard_map"), (8, "pmap")])
def test_replicas_have_the_statistic_and_gradient_of_the_whole_batch(devices, mapping):
    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        z, w = jnp.asarray(draw.normal(size=(8, 2, 5))), jnp.asarray(draw.normal(size=(5, 4)) / 2)
        slices, grid = unit_slices(jax.random.key(0), 4, 6), quadrature()

        def loss(w, z, axis_name=None):
            embeddings = (z @ w).swapaxes(0, 1)
            return sigreg(embeddings, slices, *grid, axis_name=axis_name) + invariance(embeddings, 2)

        def replica(w, z):
            found, grads = jax.value_and_grad(lambda w: dist.mean(loss(w, z, dist.AXIS)))(w)
            return found, dist.mean(grads)

        mesh = dist.make_mesh(jax.devices()[:devices])
        found = dist.map_replicas(replica, mesh, (P(), P(dist.AXIS)), P(), mapping=mapping)(w, z)
        for a, b in zip(found, jax.value_and_grad(loss)(w, z), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_fields_say_which_views_count():
    """Centre and statistic, of one large and two small crops."""
    changes = {"method.globals": 1, "method.locals": 2, "method.local.size": 8, "batch_size": 8}
    for field in ("area", "jitter", "brightness", "contrast", "affine"):
        changes[f"method.local.{field}"] = tiny.config("lejepa").method.view[field]
    changes |= {f"method.local.{name}": 0.0 for name in ("flip", "saturation", "hue", "gray", "blur", "solarize")}
    changes |= {"method.local.mean": (0.3,), "method.local.std": (0.37,), "method.local.crop": "centre"}
    changes["method.local.order"] = ("affine", "crop", "jitter")
    run = tiny.run("lejepa", **changes)
    ts, batch, found = run.init(), tiny.batch_of(run, 8), {}
    for name, fields in {
        "paper": {},
        "minimal": {"centre": "all"},
        "lightly": {"sigreg_views": "locals"},
    }.items():
        method = dataclasses.replace(run.method, **fields)
        _, (_, found[name]) = tiny.loss_function(run, method)(ts.params, ts.state, batch)
    assert found["minimal"]["invariance"] < found["paper"]["invariance"]
    assert found["minimal"]["sigreg"] == found["paper"]["sigreg"] != found["lightly"]["sigreg"]
    assert found["lightly"]["invariance"] == found["paper"]["invariance"]
    for fields in ({"locals": 0}, {"centre": "none"}, {"locals": 0, "sigreg_views": "locals", "globals": 2}):
        with pytest.raises(UserError):
            dataclasses.replace(run.method, **fields).check(8, 8, 1)
