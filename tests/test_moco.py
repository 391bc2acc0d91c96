"""MoCo v1 and v2: the loss, the queue, the key network, and that shuffling keeps BatchNorm from cheating."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny
from tiny import Pixels, generator

from ssl_jax import dist, losses
from ssl_jax.methods.contract import Info, flat
from ssl_jax.methods.joint import mocov1
from ssl_jax.methods.joint.mocov1 import Head, MoCoV1, enqueue, info_nce, new_queue
from ssl_jax.methods.joint.mocov2 import MoCoV2
from ssl_jax.models.norm import BatchNorm
from ssl_jax.runtime.errors import UserError

DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-7), ("float32", 1e-5)])
N, OUT, K = 32, 32, 64
INFO = Info(num_examples=64, batch_size=N, steps_per_epoch=2, total_steps=4)


@functools.partial(jax.jit, static_argnames="temperature")
def value_and_gradients(q, k, queue, *, temperature):
    return jax.value_and_grad(lambda *x: info_nce(*x, temperature=temperature)[0], (0, 1, 2))(q, k, queue)


compiled = jax.jit(info_nce, static_argnames="temperature")


def contrast(q, k, queue, temperature):
    with jax.enable_x64(True):
        return [float(x) for x in compiled(*(jnp.asarray(x, float) for x in (q, k, queue)), temperature=temperature)]


def numpy_info_nce(q, k, queue, temperature):
    """Query by query; a row without length counts as zero."""
    q, k, queue = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (q, k, queue))
    terms = []
    for i in range(len(q)):
        scores = [q[i] @ key / temperature for key in (k[i], *queue)]
        terms.append(np.log(sum(np.exp(scores))) - scores[0])
    return np.mean(terms)


@pytest.mark.fast
@DTYPES
def test_loss_agrees_with_the_reference(golden, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"), np.load(golden / "moco_tau0.2.npz") as ref:
        arrays = (jnp.asarray(ref[f"x{i}"], dtype) for i in range(3))
        loss, grads = value_and_gradients(*arrays, temperature=0.2)
        assert loss.dtype == dtype
        assert abs(loss - ref["loss"]) <= tolerance * ref["loss"]
        assert np.abs(grads[0] - ref["grad0"]).max() <= tolerance * np.abs(ref["grad0"]).max()
        for constant in grads[1:]:  # keys and queue
            np.testing.assert_array_equal(constant, 0)


@pytest.mark.fast
@pytest.mark.parametrize(("temperature", "value"), [(0.07, 1.071042), (0.2, 0.663335)])
def test_loss_has_the_values_of_the_specification(temperature, value):
    q, k, queue = generator(4, 3, 0.1), generator(4, 3, 0.9), generator(5, 3, 2.3)
    assert contrast(q, k, queue, temperature)[0] == pytest.approx(value, abs=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("case", ["plain", "duplicates", "zero rows", "one query"])
def test_loss_agrees_with_numpy(case):
    rng = np.random.default_rng(0)
    q, k, queue = rng.normal(size=(1 if case == "one query" else 6, 5)), rng.normal(size=(6, 5)), np.eye(5)
    k = k[: len(q)]
    if case == "duplicates":
        q[1], k[2], queue[3], queue[4] = q[0], q[2], k[5], k[5]
    if case == "zero rows":
        q[1], k[1], k[3], queue[0] = 0, 0, 0, 0
    assert contrast(q, k, queue, 0.1)[0] == pytest.approx(numpy_info_nce(q, k, queue, 0.1), abs=1e-12)
    loss, grads = value_and_gradients(*(jnp.asarray(x, jnp.float32) for x in (q, k, queue)), temperature=0.1)
    assert np.isfinite(loss) and np.isfinite(grads[0]).all()


@pytest.mark.fast
def test_loss_has_its_closed_forms():
    # Perfect positives, negatives at right angles (rows without length are at right angles to everything).
    q, nothing = np.eye(4), np.zeros((65536, 4))
    assert contrast(q, 3 * q, nothing, 0.07) == pytest.approx([0.040135, 1], abs=1e-6)
    assert contrast(q, 3 * q, nothing, 0.2) == pytest.approx([6.092617, 1], abs=1e-6)
    # Collapsed: as likely as all others, and by no means right.
    same = np.tile([[1.0, 0.0]], (8, 1))
    assert contrast(same, same, same, 0.07) == pytest.approx([np.log(9), 0], abs=1e-12)
    # A key that is in the queue already is its own negative.
    assert contrast(q, q, np.eye(4), 0.01)[0] == pytest.approx(np.log(2), abs=1e-12)


@pytest.mark.fast
def test_queue_is_first_in_first_out():
    queue = new_queue(jax.random.key(0), 6, 3, 2)
    first = queue["rows"]
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-6)
    for number in range(4):
        queue = enqueue(queue, jnp.full((2, 3), float(number)))
    np.testing.assert_array_equal(queue["rows"][:, 0], [3, 3, 1, 1, 2, 2])
    assert queue["pointer"] == 2


@pytest.mark.fast
def test_queue_must_be_filled_evenly():
    batch = {"view1": jnp.zeros((2, 4, 4, 1))}
    with pytest.raises(UserError, match=r"queue_size is 96, but an update enqueues 64 .* multiple of 64"):
        MoCoV1(Pixels(), queue_size=96, symmetric=True).init(jax.random.key(0), batch, INFO)
    MoCoV1(Pixels(), queue_size=96).init(jax.random.key(0), batch, INFO)


@pytest.mark.fast
@pytest.mark.parametrize(("method", "count"), [(MoCoV1, 262_272), (MoCoV2, 4_458_624)])
def test_heads_have_as_many_parameters_as_the_authors(method, count):
    head = Head(method.hidden, method.out)
    shapes = jax.eval_shape(lambda x: head.init(jax.random.key(0), x, train=True), jnp.zeros((1, 2048)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


@pytest.mark.fast
def test_order_is_random_and_belongs_to_the_examples():
    rng, positions = jax.random.key(0), jnp.arange(64)
    order = np.asarray(dist.random_order(rng, positions))
    assert sorted(order) == list(range(64))
    assert np.mean(order // 8 == np.arange(64) // 8) < 0.3  # groups of eight are mixed
    assert np.mean(order == np.asarray(dist.random_order(jax.random.key(1), positions))) < 0.1
    rows = np.random.default_rng(0).permutation(64)  # whatever order the rows come in, examples meet the same others
    np.testing.assert_array_equal(rows[dist.random_order(rng, positions[rows])], order)


class Cheat(nn.Module):
    """Shows nothing but the statistics of the BatchNorm group, for images whose variance in it is one."""

    bn_groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train, stage=None):
        x = x.reshape(len(x), -1)
        return x - BatchNorm(self.bn_groups)(x, train)


def random_batch():
    view1, view2 = jax.random.normal(jax.random.key(3), (2, N, 4, 4, 1))
    return {"view1": view1, "view2": view2, "position": jnp.arange(N)}


def begin(method, batch):
    return method.init(jax.random.key(0), batch, INFO)


def forward(method, params, state, batch, devices=1):
    """Loss, state and metrics of one step."""

    def replica(params, state, batch):
        loss, (state, aux) = method.loss(
            params, state, batch, rng=jax.random.key(1), step=jnp.zeros((), jnp.int32), info=INFO
        )
        return dist.mean(loss), state, dist.mean(flat(aux.metrics))

    mesh = dist.make_mesh(jax.devices()[:devices])
    return dist.map_replicas(replica, mesh, (P(), P(), P(dist.AXIS)), P())(params, state, batch)


def embed(parts, x):
    """What `Pixels` and the head of v1 make of images, normalised."""
    (dense,) = parts["backbone"].values()
    y = x.reshape(len(x), -1) @ dense["kernel"] + dense["bias"]
    out = parts["projector"]["out"]
    return losses.l2_normalize(y @ out["kernel"] + out["bias"])


def test_one_step_does_as_the_authors_do():
    """The key network moves first, from the incoming parameters; the keys are used, then enqueued."""
    method, batch = MoCoV1(Pixels(), out=OUT, queue_size=K, m=0.9), random_batch()
    theta, state = begin(method, batch)
    old = state["queue"]["rows"]
    _, state, _ = forward(method, theta, state, batch)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state["key"]["params"], theta)
    moved = jax.tree.map(lambda x: x + 1.0, theta)  # as if the optimiser had
    loss, state, metrics = forward(method, moved, state, batch)
    xi = state["key"]["params"]
    expected = jax.tree.map(lambda x, y: 0.9 * x + 0.1 * y, theta, moved)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), xi, expected)
    # The second half is what was there, the first the keys of the first step.
    q, k, first = embed(moved, batch["view1"]), embed(xi, batch["view2"]), embed(theta, batch["view2"])
    used = np.concatenate([first, old[N:]])
    assert loss == pytest.approx(numpy_info_nce(q, k, used, method.temperature), rel=1e-4)
    np.testing.assert_allclose(state["queue"]["rows"], np.concatenate([first, k]), atol=1e-5)
    assert state["queue"]["pointer"] == 0
    assert metrics["batch_top1"] == np.mean(np.argmax(q @ k.T, 1) == np.arange(N))
    assert metrics["queue_accuracy"] == np.mean(np.sum(q * k, 1) > np.max(q @ used.T, 1))


def test_only_the_symmetric_loss_is_symmetric():
    batch = random_batch()
    swapped = {**batch, "view1": batch["view2"], "view2": batch["view1"]}
    one = MoCoV1(Pixels(), out=OUT, queue_size=K)
    params, state = begin(one, batch)
    there, back = (forward(one, params, state, b)[0] for b in (batch, swapped))
    assert abs(there - back) > 1e-3
    both = dataclasses.replace(one, symmetric=True)
    for scale in (1.0, 0.5):  # the authors' demo; lightly and solo-learn
        method = dataclasses.replace(both, scale=scale)
        loss, after, _ = forward(method, params, state, batch)
        assert loss == pytest.approx(scale * float(there + back), rel=1e-5)
        assert method.chance(INFO) == pytest.approx(2 * scale * np.log(K + 1))
    keys = np.concatenate([embed(params, batch[v]) for v in ("view2", "view1")])
    np.testing.assert_allclose(after["queue"]["rows"], keys, atol=1e-5)


def group_mates():
    """Queries whose keys are other images; only the mean of their group of four do the two have in common."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (8, 2, 256))
    group = np.stack([signs[:, 0], signs[:, 1], -signs[:, 0], -signs[:, 1]], 1)  # mean 0, variance 1
    group += 0.1 * rng.normal(size=(8, 1, 256))
    views = [jnp.asarray(x.reshape(N, 16, 16, 1), jnp.float32) for x in (group, np.roll(group, 1, axis=1))]
    return {"view1": views[0], "view2": views[1], "position": jnp.arange(N)}


@pytest.mark.parametrize("devices", [1, 8])
def test_shuffling_hides_the_statistics_of_the_group(devices, monkeypatch):
    """A network that sees nothing but statistics is always right without the shuffle, and helpless with it."""
    method, batch = MoCoV1(Cheat(), out=OUT, queue_size=K), group_mates()
    params, state = begin(method, batch)
    loss, after, metrics = forward(method, params, state, batch, devices)
    assert metrics["queue_accuracy"] < 0.2 and loss > 0.8 * method.chance(INFO)
    monkeypatch.setattr(dist, "random_order", lambda rng, positions: jnp.arange(len(positions)))
    leaky_loss, leaky, leaky_metrics = forward(method, params, state, batch, devices)
    assert leaky_metrics["queue_accuracy"] == 1 and leaky_loss < 0.1 * method.chance(INFO)
    # The keys were put back in order: the statistics aside, each row is what it was.
    assert not np.allclose(after["queue"]["rows"][:N], leaky["queue"]["rows"][:N], atol=0.1)


def test_keys_come_back_to_their_queries(monkeypatch):
    """With a backbone that has no norm the shuffle changes nothing but who encodes what."""
    method, batch = MoCoV1(Pixels(bn_groups=8), out=OUT, queue_size=K), random_batch()
    params, state = begin(method, batch)
    loss, after, _ = forward(method, params, state, batch, 8)
    plain, unshuffled, _ = forward(dataclasses.replace(method, backbone=Pixels()), params, state, batch)
    assert loss == pytest.approx(float(plain), rel=1e-5)
    np.testing.assert_allclose(after["queue"]["rows"], unshuffled["queue"]["rows"], atol=1e-5)


def attraction(q, k, queue, **_):
    """What is left without the queue."""
    del queue
    cosine = jnp.sum(losses.l2_normalize(q) * jax.lax.stop_gradient(k), 1).mean()
    return -2 * cosine, cosine


def test_without_a_queue_it_collapses(monkeypatch):
    run = tiny.run("mocov1", batch_size=32, epochs=2)
    method = dataclasses.replace(run.method, m=0.9)  # else 80 updates do not move the keys
    _, _, _, metrics = tiny.overfit(run, 80, method)
    assert metrics[-1]["query_std"] > 0.35 / method.out**0.5
    monkeypatch.setattr(mocov1, "info_nce", attraction)
    _, _, _, metrics = tiny.overfit(run, 80, method)
    assert metrics[-1]["query_std"] < 0.2 / method.out**0.5
