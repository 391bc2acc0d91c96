"""SimSiam: the loss, the networks, the predictor's own learning rate, and the two things that prevent collapse."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from tiny import Pixels, generator

from ssl_jax import dist, losses, optim
from ssl_jax.methods.contract import Info, flat
from ssl_jax.methods.joint import simsiam
from ssl_jax.methods.joint.byol import regression_loss
from ssl_jax.methods.joint.simsiam import SimSiam, negative_cosine
from ssl_jax.recipes import get_config

INFO = Info(num_examples=64, batch_size=32, steps_per_epoch=2, total_steps=4)
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-7), ("float32", 1e-5)])


def numpy_cosine(p, z):
    """Minus the mean cosine; a row without length counts as zero."""
    return -np.mean([a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12) for a, b in zip(p, z, strict=True)])


@pytest.mark.fast
@DTYPES
def test_loss_agrees_with_the_reference(golden, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"), np.load(golden / "negative_cosine.npz") as ref:
        p, z = jnp.asarray(ref["x0"], dtype), jnp.asarray(ref["x1"], dtype)
        loss, (to_p, to_z) = jax.value_and_grad(negative_cosine, (0, 1))(p, z)
        assert loss.dtype == dtype
        assert abs(loss - ref["loss"]) <= tolerance * max(abs(ref["loss"]), 1)
        assert np.abs(to_p - ref["grad0"]).max() <= tolerance * np.abs(ref["grad0"]).max()
        np.testing.assert_array_equal(to_z, 0)


@pytest.mark.fast
def test_loss_has_the_value_of_the_specification():
    with jax.enable_x64(True):
        p1, p2, z1, z2 = (jnp.asarray(generator(4, 3, s)) for s in (0.1, 0.9, 0.4, 1.7))
        loss = (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2
        assert float(loss) == pytest.approx(-0.442844, abs=1e-6)
        byol = regression_loss(p1, z2) + regression_loss(p2, z1)
        assert float(byol) == pytest.approx(float(4 + 4 * loss), abs=1e-12)


@pytest.mark.fast
def test_loss_agrees_with_numpy():
    p, z = np.random.default_rng(0).normal(size=(2, 6, 5))
    p[1], z[2], p[3], z[3] = p[0], z[0], 0, 0
    with jax.enable_x64(True):
        for k in (6, 1):
            assert float(negative_cosine(p[:k], jnp.asarray(z[:k]))) == pytest.approx(numpy_cosine(p[:k], z[:k]))
        assert float(negative_cosine(jnp.asarray(p), 3 * jnp.asarray(p))) == pytest.approx(-5 / 6)  # one is zero
    assert np.isfinite(jax.grad(negative_cosine)(jnp.asarray(p, jnp.float32), jnp.asarray(z, jnp.float32))).all()


@pytest.mark.fast
def test_heads_have_as_many_parameters_as_the_authors():
    method = SimSiam(Pixels(32))
    for head, count in ((method._projector(), 12_591_104), (method._predictor(), 2_100_224)):
        init = functools.partial(head.init, jax.random.key(0), train=True)
        shapes = jax.eval_shape(init, jnp.zeros((1, 2048)))["params"]
        assert sum(x.size for x in jax.tree.leaves(shapes)) == count


@pytest.mark.fast
@pytest.mark.parametrize("preset", ["cifar10", "imagenet"])
def test_learning_rate_of_the_predictor_stays(preset):
    c = get_config("simsiam", preset)
    labels = {"default": "default", "predictor": "predictor"}
    _, schedules = optim.build(c.optim, labels, c.batch_size, steps_per_epoch=10, total_steps=10 * c.epochs)
    first, last = ({g: float(s(jnp.asarray(k))) for g, s in schedules.items()} for k in (0, 10 * c.epochs - 1))
    assert first["default"] == first["predictor"] == last["predictor"] > 100 * last["default"]
    for group in labels:  # weight decay is on everything, scales and offsets too
        assert all(jax.tree.leaves(optim.decayed({"scale": jnp.ones(3)}, c.optim[group].exclude)))


@pytest.mark.fast
def test_predictor_is_a_group_of_its_own():
    method = SimSiam(Pixels(32))
    params = {"backbone": {"a": 0}, "projector": {"b": {"c": 0}}, "predictor": {"d": {"e": 0, "f": 0}}}
    assert method.groups(params) == {
        "backbone": {"a": "default"},
        "projector": {"b": {"c": "default"}},
        "predictor": {"d": {"e": "predictor", "f": "predictor"}},
    }


def small(cls=SimSiam):
    return cls(Pixels(32), hidden=(64,), out=32, bottleneck=8)


def strangers(rng):
    """Two views that have nothing in common."""
    view1, view2 = jax.random.normal(rng, (2, 32, 4, 4, 1))
    return {"view1": view1, "view2": view2, "position": jnp.arange(32)}


def step(method, params, state, batch):
    def loss_of(params):
        loss, (after, aux) = method.loss(params, state, batch, rng=None, step=0, info=INFO)
        return dist.mean(loss), (after, dist.mean(flat(aux.metrics)))

    (loss, (state, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    return loss, state, metrics["projection_std"], grads


def on_one_device(fn):
    return dist.map_replicas(fn, dist.make_mesh(jax.devices()[:1]), (P(), P()), P())


def test_swapped_views_change_nothing():
    method, batch = small(), strangers(jax.random.key(3))
    params, state = method.init(jax.random.key(0), batch, INFO)
    swapped = {**batch, "view1": batch["view2"], "view2": batch["view1"]}
    run = on_one_device(lambda params, batch: step(method, params, state, batch))
    (loss, _, _, grads), (other_loss, _, _, other_grads) = run(params, batch), run(params, swapped)
    assert other_loss == pytest.approx(float(loss), abs=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), grads, other_grads)
    # Nothing is out of the optimiser's reach but biases before BatchNorm, and there are none of those.
    assert all(np.abs(g).max() > 1e-8 for g in jax.tree.leaves(grads["projector"]))


def train(method, steps=1000, rate=0.1):
    """The lowest means over 100 steps of the loss and of std * sqrt(d), always on fresh strangers.

    The lowest, since a collapsed network may come back, at a step that rounding decides.
    """
    params, state = method.init(jax.random.key(0), strangers(jax.random.key(0)), INFO)

    def run(params, state):
        def update(carry, number):
            params, state, velocity = carry
            loss, state, std, grads = step(method, params, state, strangers(jax.random.key(number)))
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
            params = jax.tree.map(lambda p, v: p - rate * v, params, velocity)
            return (params, state, velocity), (loss, std)

        start = (params, state, jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(update, start, jnp.arange(steps))[1]

    loss, std = on_one_device(run)(params, state)
    loss, std = (np.reshape(x, (-1, 100)).mean(1).min() for x in (loss, std))
    return float(loss), float(std) * method.out**0.5


class Identity(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        self.param("unused", nn.initializers.zeros, ())
        return x


class WithoutPredictor(SimSiam):
    def _predictor(self):
        return Identity()


@pytest.mark.parametrize("variant", ["right", "without stop-gradient", "without predictor"])
def test_stop_gradient_and_predictor_prevent_collapse(variant, monkeypatch):
    """Views with nothing in common can be alike only by collapse: the right loss stays near chance."""
    if variant == "without stop-gradient":
        plain = lambda p, z: -jnp.mean(jnp.sum(losses.l2_normalize(p) * losses.l2_normalize(z), -1))  # noqa: E731
        monkeypatch.setattr(simsiam, "negative_cosine", plain)
    loss, std = train(small(WithoutPredictor if variant == "without predictor" else SimSiam))
    if variant == "right":
        assert loss > -0.2 and std > 0.95
    else:
        assert loss < -0.4 and std < 0.8
