"""MoCo v3 against reference numbers, closed forms and its authors' order of updates."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny
from tiny import generator

from ssl_jax import dist, losses, models
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint import mocov3
from ssl_jax.methods.joint.byol import target_decay
from ssl_jax.methods.joint.mocov3 import MoCoV3, contrast
from ssl_jax.models.heads import MLP
from ssl_jax.recipes import get_config

KEY = jax.random.key(0)


pytestmark = pytest.mark.usefixtures("quick_compilation")


def numpy_contrast(q, k, temperature):
    """Query by query; a row without length counts as zero."""
    q, k = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (q, k))
    terms = []
    for i in range(len(q)):
        scores = [q[i] @ key / temperature for key in k]
        terms.append(np.log(np.sum(np.exp(scores))) - scores[i])
    return 2 * temperature * np.mean(terms)


def value(q, k, temperature=0.2):
    """Loss and share of right answers in float64."""
    with jax.enable_x64(True):
        return [float(x) for x in contrast(jnp.asarray(q, float), jnp.asarray(k, float), temperature=temperature)]


@pytest.mark.fast
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-7), ("float32", 1e-5)])
def test_agrees_with_the_reference(golden, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"), np.load(golden / "moco_v3_tau0.2.npz") as ref:
        q, k = jnp.asarray(ref["x0"], dtype), jnp.asarray(ref["x1"], dtype)
        loss, (grad, none) = jax.value_and_grad(lambda q, k: contrast(q, k, temperature=0.2)[0], (0, 1))(q, k)
        assert loss.dtype == dtype
        assert abs(loss - ref["loss"]) <= tolerance * ref["loss"]
        assert np.abs(grad - ref["grad0"]).max() <= tolerance * np.abs(ref["grad0"]).max()
        np.testing.assert_array_equal(none, 0)  # keys are constants


@pytest.mark.fast
@pytest.mark.parametrize(("temperature", "expected"), [(0.2, 1.724408), (1.0, 5.277998)])
def test_has_the_values_of_the_specification(temperature, expected):
    p1, p2, z1, z2 = (generator(4, 3, s) for s in (0.1, 0.9, 0.4, 1.7))
    both = value(p1, z2, temperature)[0] + value(p2, z1, temperature)[0]
    assert both == pytest.approx(expected, abs=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("case", ["plain", "duplicates", "zero rows", "one image"])
def test_agrees_with_numpy(case):
    q, k = np.random.default_rng(0).normal(size=(2, 1 if case == "one image" else 6, 5))
    if case == "duplicates":
        q[2], k[2], k[3] = q[0], k[0], k[0]
    if case == "zero rows":
        q[1], k[4] = 0, 0
    for temperature in (0.2, 1.0):
        assert value(q, k, temperature)[0] == pytest.approx(numpy_contrast(q, k, temperature), abs=1e-12)
    assert value(3 * q, k / 7)[0] == pytest.approx(value(q, k)[0], rel=1e-12)  # lengths do not matter
    grad = jax.grad(lambda q: contrast(q, jnp.asarray(k, jnp.float32), temperature=0.2)[0])(jnp.asarray(q, jnp.float32))
    assert np.isfinite(grad).all()


@pytest.mark.fast
def test_closed_forms():
    same = np.ones((4, 3))
    assert 2 * value(same, same)[0] == pytest.approx(1.109035, abs=1e-6)
    method, info = MoCoV3(None, temperature=0.2), Info(100, 4, 1, 1)
    assert method.chance(info) == pytest.approx(1.109035, abs=1e-6)
    corners = np.eye(4) - 0.25  # a simplex
    loss, top1 = value(corners, 5 * corners)
    assert 2 * loss == pytest.approx(method.best(info), rel=1e-9)
    assert top1 == 1 and value(corners, corners[[1, 0, 2, 3]])[1] == 0.5
    # The other view of the same image is no negative: one image alone has none.
    assert value(same[:1], same[:1])[0] == 0


@pytest.mark.parametrize("devices", [2, 8])
def test_keys_of_all_replicas_are_compared(devices):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        q, k, w = (jnp.asarray(rng.normal(size=s)) for s in ((8, 5), (8, 4), (5, 4)))

        def replica(w, q, k):
            def loss(w):
                found, top1 = contrast(q @ w, k, temperature=0.2, axis_name=dist.AXIS)
                return dist.mean(found), dist.mean(top1)

            (found, top1), grad = jax.value_and_grad(loss, has_aux=True)(w)
            return found, top1, dist.mean(grad)

        mesh = dist.make_mesh(jax.devices()[:devices])
        found = dist.map_replicas(replica, mesh, (P(), P(dist.AXIS), P(dist.AXIS)), P())(w, q, k)
        whole = jax.value_and_grad(lambda w: contrast(q @ w, k, temperature=0.2), has_aux=True)
        (loss, top1), grad = whole(w)
        np.testing.assert_allclose(found[0], loss, rtol=1e-12)
        np.testing.assert_allclose(found[1], top1, rtol=1e-6)
        np.testing.assert_allclose(found[2], grad, rtol=1e-9, atol=1e-12)


# The method.


def size(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("preset", "projector"), [("imagenet", 9_445_376), ("imagenet_vit", 19_415_040)])
def test_heads_are_the_authors(preset, projector):
    config = get_config("mocov3", preset)
    method = mocov3.MoCoV3(models.from_config(config.model), **_scalars(config.method))
    batch = {"view1": jnp.zeros((2, 224, 224, 3))}
    params, state = jax.eval_shape(lambda: method.init(KEY, batch, Info(1, 1, 1, 1)))
    assert size(params["projector"]) == projector
    assert size(params["predictor"]) == 2_105_344
    last = {"imagenet": "out", "imagenet_vit": "out_norm"}[preset]
    assert ("out_norm" in state["stats"]["predictor"]) == (last == "out_norm")
    assert set(state["key"]["params"]) == {"backbone", "projector"}  # the predictor has no counterpart
    if preset == "imagenet_vit":
        assert "positions" not in params["backbone"] and method.backbone.frozen == ("patch",)
        assert method.backbone.heads == 12


def _scalars(config):
    return {k: v for k, v in config.items() if k not in ("name", "view1", "view2")}


@functools.cache
def begun():
    """A run, its state after two updates, and the loss as a function of the step."""
    run, _, _ = tiny.compiled("mocov3")
    ts, _ = tiny.steps("mocov3", 2)
    return run, ts, jax.jit(tiny.loss_function(run)), tiny.batch_of(run, 8)


def test_keys_move_before_they_are_computed():
    """xi <- m xi + (1 - m) theta with the incoming theta, m from the step; the loss sees the moved keys."""
    run, ts, loss, batch = begun()
    xi = ts.state["key"]["params"]
    theta = {name: ts.params[name] for name in xi}
    gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), theta, xi)
    assert max(jax.tree.leaves(gap)) > 1e-3
    for step in (0, run.info.total_steps // 2, run.info.total_steps):
        m = float(target_decay(0.99, step, run.info.total_steps))
        moved = jax.tree.map(lambda a, b, m=m: m * a + (1 - m) * b, xi, theta)
        found, (state, _) = loss(ts.params, ts.state, batch, step)
        tiny.assert_close(state["key"]["params"], moved, 1e-5)
        # At the end nothing moves, so that keys given as moved have the same loss.
        given = {**ts.state, "key": {**ts.state["key"], "params": moved}}
        np.testing.assert_allclose(found, loss(ts.params, given, batch, run.info.total_steps)[0], rtol=1e-5)
    assert m == 1


def test_keys_start_as_the_queries():
    run, _, _, _ = begun()
    ts = tiny.fresh(run)
    for name, part in ts.state["key"]["params"].items():
        tiny.assert_same(part, ts.params[name])


def test_loss_is_symmetric_in_the_views():
    _, ts, loss, batch = begun()
    swapped = {**batch, "view1": batch["view2"], "view2": batch["view1"]}
    np.testing.assert_allclose(loss(ts.params, ts.state, swapped)[0], loss(ts.params, ts.state, batch)[0], rtol=1e-5)


class Through(MLP):
    """No predictor; the parameters are there, but nobody reads them."""

    def __call__(self, x, *, train):
        return x


class Plain(MoCoV3):
    """No predictor, and no BatchNorm at the end of the projector."""

    def _mlp(self, layers, norm):
        return super()._mlp(layers, "none")

    def _predictor(self):
        return Through((), 1)


def attraction(q, k, *, temperature, axis_name):
    """What is left without the other images."""
    del axis_name, temperature
    cosine = jnp.sum(losses.l2_normalize(q) * losses.l2_normalize(jax.lax.stop_gradient(k)), 1).mean()
    return -2 * cosine, cosine


def test_without_negatives_it_collapses(monkeypatch):
    """The same bare networks with and without the other images' keys."""
    run = tiny.run("mocov3", batch_size=32, epochs=2)
    bare = Plain(**vars(run.method) | {"tau": 0.0})
    _, _, _, metrics = tiny.overfit(run, 80, bare)
    assert metrics[-1]["query_std"] > 0.5 / bare.out**0.5
    monkeypatch.setattr(mocov3, "contrast", attraction)
    _, _, _, metrics = tiny.overfit(run, 80, bare)
    assert metrics[-1]["query_std"] < 0.2 / bare.out**0.5
