"""NNCLR: neighbours, the contrast between them and predictions, and the queue they come from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny
from tiny import Pixels, generator

from ssl_jax import dist, losses
from ssl_jax.methods.contract import Info, flat
from ssl_jax.methods.joint import nnclr
from ssl_jax.methods.joint.nnclr import NNCLR, nearest_neighbour, neighbour_contrast
from ssl_jax.runtime.errors import UserError

N, OUT, K = 16, 24, 32
INFO = Info(num_examples=64, batch_size=N, steps_per_epoch=4, total_steps=8)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


compiled = jax.jit(neighbour_contrast, static_argnames="temperature")


def numpy_contrast(neighbours, p, temperature):
    """Row by row; a row without length counts as zero."""
    neighbours, p = unit(neighbours), unit(p)
    terms = []
    for i in range(len(p)):
        scores = [neighbours[i] @ other / temperature for other in p]
        terms.append(np.log(sum(np.exp(scores))) - scores[i])
    return np.mean(terms)


def contrast(neighbours, p, temperature=0.1):
    with jax.enable_x64(True):
        arrays = (jnp.asarray(x, float) for x in (neighbours, p))
        return [float(x) for x in compiled(*arrays, temperature=temperature)]


@pytest.mark.fast
def test_loss_has_the_value_of_the_specification():
    p1, p2, z1, z2 = (generator(4, 3, s) for s in (0.1, 0.9, 0.4, 1.7))
    queue = unit(generator(5, 3, 2.3))
    with jax.enable_x64(True):
        nn1, nn2 = (nearest_neighbour(jnp.asarray(z), jnp.asarray(queue)) for z in (z1, z2))
    loss = (contrast(nn1, p2)[0] + contrast(nn2, p1)[0]) / 2
    assert loss == pytest.approx(4.122992, abs=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("case", ["plain", "one neighbour for all", "zero rows", "one image"])
def test_loss_agrees_with_numpy(case):
    neighbours, p = np.random.default_rng(0).normal(size=(2, 1 if case == "one image" else 6, 5))
    if case == "one neighbour for all":
        neighbours[:], p[1] = neighbours[0], p[0]
    if case == "zero rows":
        neighbours[1], p[1], p[4] = 0, 0, 0
    for temperature in (0.1, 1.0):
        expected = numpy_contrast(neighbours, p, temperature)
        assert contrast(neighbours, p, temperature)[0] == pytest.approx(expected, abs=1e-12)


def test_gradient_flows_into_predictions_alone_and_is_the_numerical_one():
    with jax.enable_x64(True):
        neighbours, p, nudge = (jnp.asarray(x) for x in np.random.default_rng(0).normal(size=(3, 6, 5)))
        value = lambda n, p: neighbour_contrast(n, p, temperature=0.1)[0]  # noqa: E731
        to_neighbours, to_p = jax.grad(value, (0, 1))(neighbours, p)
        np.testing.assert_array_equal(to_neighbours, 0)
        slope = (value(neighbours, p + 1e-6 * nudge) - value(neighbours, p - 1e-6 * nudge)) / 2e-6
        assert jnp.vdot(to_p, nudge) == pytest.approx(float(slope), rel=1e-6)
        queue = losses.l2_normalize(neighbours)
        for gradient in jax.grad(lambda *x: nearest_neighbour(*x).sum(), (0, 1))(p, queue):
            np.testing.assert_array_equal(gradient, 0)


@pytest.mark.fast
def test_neighbour_is_the_row_that_points_the_same_way():
    queue = jnp.asarray(unit(np.random.default_rng(0).normal(size=(9, 4))), jnp.float32)
    np.testing.assert_array_equal(nearest_neighbour(7 * queue[2:5], queue), queue[2:5])
    # Nearest by angle, whatever the lengths; the first of equals.
    z = jnp.array([[5.0, 4.0], [0.0, 0.1]])
    np.testing.assert_array_equal(nearest_neighbour(z, jnp.array([[0.0, 1], [1, 0], [1, 0]])), [[1, 0], [0, 1]])


@pytest.mark.parametrize("devices", [2, 8])
def test_gathered_loss_is_the_loss_of_the_whole_batch(devices):
    with jax.enable_x64(True):
        neighbours, p = (jnp.asarray(x) for x in np.random.default_rng(0).normal(size=(2, 8, 5)))
        w = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)))

        def whole(w):
            return neighbour_contrast(neighbours, p @ w, temperature=0.2)[0]

        def replica(w, neighbours, p):
            def loss(w):
                return dist.mean(neighbour_contrast(neighbours, p @ w, temperature=0.2, axis_name=dist.AXIS)[0])

            return jax.value_and_grad(loss)(w)

        mesh = dist.make_mesh(jax.devices()[:devices])
        found = dist.map_replicas(replica, mesh, (P(), P(dist.AXIS), P(dist.AXIS)), P())(w, neighbours, p)
        for ours, theirs in zip(found, jax.value_and_grad(whole)(w), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def method():
    return NNCLR(Pixels(), hidden=(32,), out=OUT, predictor_hidden=32, queue_size=K)


def forward(method, params, state, batch):
    """Loss, state, metrics and gradient of one step."""

    def replica(params, state, batch):
        def loss_of(params):
            loss, (after, aux) = method.loss(
                params, state, batch, rng=jax.random.key(1), step=jnp.zeros((), jnp.int32), info=INFO
            )
            return dist.mean(loss), (after, dist.mean(flat(aux.metrics)))

        (loss, (after, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return loss, after, metrics, grads

    mesh = dist.make_mesh(jax.devices()[:1])
    return dist.map_replicas(replica, mesh, (P(), P(), P(dist.AXIS)), P())(params, state, batch)


@pytest.fixture(scope="module")
def batch():
    view1, view2 = jax.random.normal(jax.random.key(3), (2, N, 4, 4, 1))
    return {"view1": view1, "view2": view2, "position": jnp.arange(N)}


def test_neighbours_are_looked_up_before_the_batch_is_enqueued(method, batch, monkeypatch):
    params, state = method.init(jax.random.key(0), batch, INFO)
    old = state["queue"]["rows"]
    _, once, metrics, _ = forward(method, params, state, batch)
    assert metrics["neighbour_cosine"] < 0.9  # of random rows
    _, twice, metrics, _ = forward(method, params, once, batch)
    assert metrics["neighbour_cosine"] == pytest.approx(1, abs=1e-5)  # by now the first views are there themselves
    # The first view's projections alone are stored, in their order, oldest rows first.
    z1 = once["queue"]["rows"][:N]
    np.testing.assert_array_equal(once["queue"]["rows"][N:], old[N:])
    np.testing.assert_allclose(twice["queue"]["rows"], np.concatenate([z1, z1]), atol=1e-5)
    assert (once["queue"]["pointer"], twice["queue"]["pointer"]) == (N, 0)

    # Enqueued before the lookup, every projection is its own neighbour, and neighbours bring nothing new.
    def too_early(z, queue):
        return nearest_neighbour(z, jnp.concatenate([jax.lax.stop_gradient(losses.l2_normalize(z)), queue]))

    monkeypatch.setattr(nnclr, "nearest_neighbour", too_early)
    assert forward(method, params, state, batch)[2]["neighbour_cosine"] == pytest.approx(1, abs=1e-5)


def test_loss_is_the_mean_of_both_directions(method, batch):
    """Swapped views give the same loss; they differ in what is enqueued."""
    params, state = method.init(jax.random.key(0), batch, INFO)
    swapped = {**batch, "view1": batch["view2"], "view2": batch["view1"]}
    for variant in (method, dataclasses.replace(method, nt_xent=True)):
        loss, after, _, grads = forward(variant, params, state, batch)
        other_loss, other_after, _, other_grads = forward(variant, params, state, swapped)
        assert other_loss == pytest.approx(float(loss), rel=1e-5)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), grads, other_grads)
        assert not np.allclose(after["queue"]["rows"], other_after["queue"]["rows"], atol=0.1)
        assert 0 < loss < 4 * variant.chance(INFO)


@pytest.mark.fast
def test_heads_have_as_many_parameters_as_the_paper():
    method = NNCLR(Pixels())
    for head, width, count in (
        (method._projector(), 2048, 8_921_600),
        (method._predictor(), 256, 2 * 256 * 4096 + 2 * 4096 + 256),
    ):
        init = functools.partial(head.init, jax.random.key(0), train=True)
        shapes = jax.eval_shape(init, jnp.zeros((1, width)))["params"]
        assert sum(x.size for x in jax.tree.leaves(shapes)) == count


@pytest.mark.fast
def test_queue_must_be_filled_evenly(method, batch):
    with pytest.raises(UserError, match="queue_size is 40"):
        dataclasses.replace(method, queue_size=40).init(jax.random.key(0), batch, INFO)


def test_with_one_neighbour_for_all_predictions_collapse(monkeypatch):
    """Rows of the same neighbour ask for equal scores of all predictions: the loss ends at chance.

    Without negatives, the variant that breaks the other contrastive methods, NNCLR keeps its spread: neighbours from a
    queue are targets without gradient, as BYOL's are.
    """
    run = tiny.run("nnclr", batch_size=32, epochs=100)
    chance = run.method.chance(run.info)
    _, _, values, metrics = tiny.overfit(run, 80)
    assert values[-1] < 0.3 * chance and metrics[-1]["contrastive_accuracy"] > 0.8

    def same_for_all(z, queue):
        return jnp.broadcast_to(queue[0], z.shape)

    monkeypatch.setattr(nnclr, "nearest_neighbour", same_for_all)
    _, _, values, metrics = tiny.overfit(run, 80)
    assert abs(values[-1] - chance) < 1e-3 * chance and metrics[-1]["contrastive_accuracy"] == 1 / 32
