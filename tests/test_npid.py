"""NPID: its loss, its bank on several devices, and the order of what happens in a step."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist
from ssl_jax.methods.joint import npid
from ssl_jax.methods.shared import memory_bank

pytestmark = pytest.mark.usefixtures("quick_compilation")


def generator(n, d, s):
    """The input generator A(n, d, s) of the specification sheet, section 10, with rows of length one."""
    a = tiny.generator(n, d, s)
    return a / np.linalg.norm(a, axis=1, keepdims=True)


def numpy_nce(scores, z, n, temperature):
    """The authors' NCECriterion, row by row."""
    m, total = scores.shape[1] - 1, 0.0
    for row in np.exp(scores / temperature) / z:
        total += np.log(row[0] / (row[0] + m / n + 1e-7))
        total += sum(np.log((m / n) / (p + m / n + 1e-7)) for p in row[1:])
    return -total / len(scores)


def numpy_softmax(v, bank, index, n, temperature):
    logits = v @ bank[:n].T / temperature
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(v)), index])


NOISE = np.array([[4, 5, 1], [0, 4, 4], [5, 3, 0], [2, 1, 5]])  # some are the image itself


@pytest.mark.fast
def test_nce_has_the_values_of_the_specification():
    with jax.enable_x64(True):
        v, bank = jnp.asarray(generator(4, 3, 0.1)), jnp.asarray(generator(6, 3, 2.3))
        scores = memory_bank.lookup(v, bank, jnp.asarray(np.c_[np.arange(4), NOISE]))
        z = npid.normaliser(scores, 6, 0.07)
        assert float(z) == pytest.approx(53748.4201, abs=1e-3)
        assert float(npid.nce(scores, z, 6, 0.07)) == pytest.approx(19.332176, abs=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("case", ["plain", "duplicates", "zero rows", "one image"])
def test_nce_agrees_with_the_authors(case):
    draw = np.random.default_rng(0)
    scores = draw.uniform(-1, 1, (1 if case == "one image" else 5, 8))
    if case == "duplicates":
        scores[:, 3:] = scores[:, :1]
    if case == "zero rows":
        scores[1] = 0
    with jax.enable_x64(True):
        nce = jax.jit(jax.value_and_grad(npid.nce), static_argnums=(2, 3))
        found, grad = nce(jnp.asarray(scores), jnp.asarray(30.0), 20, 0.07)
    wanted = numpy_nce(scores, 30.0, 20, 0.07)
    assert float(found) == pytest.approx(wanted, rel=1e-12)
    for at in ((0, 0), (0, 5)):  # the positive and one of the noise
        moved = scores.copy()
        moved[at] += 1e-6
        assert float(grad[at]) == pytest.approx((numpy_nce(moved, 30.0, 20, 0.07) - wanted) / 1e-6, rel=1e-4)
    # Every image as likely: what the method calls chance.
    assert npid.nce_chance(7) == pytest.approx(numpy_nce(np.zeros((2, 8)), 50.0, 50, 0.07), rel=1e-5)


@pytest.mark.fast
def test_softmax_agrees_with_numpy():
    v, bank, index = generator(4, 3, 0.1), generator(8, 3, 2.3), np.array([5, 0, 3, 2])
    v[2] = v[1]
    with jax.enable_x64(True):
        softmax = jax.jit(npid.instance_softmax, static_argnums=(3, 4))
        found, top1 = softmax(jnp.asarray(v), jnp.asarray(bank), jnp.asarray(index), 6, 0.1)
        assert float(found) == pytest.approx(numpy_softmax(v, bank, index, 6, 0.1), rel=1e-12)
        grad = jax.grad(lambda v: npid.instance_softmax(v, jnp.asarray(bank), jnp.asarray(index), 6, 0.1)[0])
        grad, direction = np.asarray(grad(jnp.asarray(v))), generator(4, 3, 5.0)
    there, here = (numpy_softmax(v + h * direction, bank, index, 6, 0.1) for h in (1e-6, -1e-6))
    assert np.sum(grad * direction) == pytest.approx((there - here) / 2e-6, rel=1e-5)
    assert float(top1) == np.mean((v @ bank[:6].T).argmax(1) == index)


@pytest.mark.fast
def test_a_collapsed_network_does_not_look_right():
    bank, index = jnp.tile(jnp.array([[0.6, 0.8]]), (6, 1)), jnp.array([0])
    assert npid.instance_softmax(bank[:1], bank, index, 6, 0.1)[1] == 0
    bank = bank.at[0].set(jnp.array([0.8, -0.6]))
    assert npid.instance_softmax(bank[:1], bank, index, 6, 0.1)[1] == 1


def over_replicas(devices, w, x, bank, index, mapping="shard_map"):
    """Both losses, their gradients with respect to shared weights, Z and the moved bank."""

    def replica(w, x, bank, index):
        def loss(w):
            v = x @ w
            v = v / jnp.linalg.norm(v, axis=1, keepdims=True)
            scores = memory_bank.lookup(v, bank, index, dist.AXIS)
            z = npid.normaliser(scores, 20, 0.2, dist.AXIS)
            softmax, top1 = npid.instance_softmax(v, bank, index[:, 0], 20, 0.2, dist.AXIS)
            values = dist.mean((npid.nce(scores, z, 20, 0.2), softmax))
            return values[0] + 2 * values[1], (values, z, dist.mean(top1), v)

        (_, (*out, v)), grads = jax.value_and_grad(loss, has_aux=True)(w)
        return (*out, dist.mean(grads)), memory_bank.update(bank, index[:, 0], v, 0.5, dist.AXIS)

    rows = P(dist.AXIS)
    mesh = dist.make_mesh(jax.devices()[:devices])
    return dist.map_replicas(replica, mesh, (P(), rows, rows, rows), (P(), rows), mapping=mapping)(w, x, bank, index)


def sharded_case():
    """Eight images of a bank of 20 rows and four of padding: of eight replicas the last has padding only."""
    draw = np.random.default_rng(0)
    index = np.concatenate([draw.permutation(20)[:8, None], draw.integers(20, size=(8, 5))], 1)
    return [
        jnp.asarray(x) for x in (draw.normal(size=(5, 4)), draw.normal(size=(8, 5)), draw.normal(size=(24, 4)), index)
    ]


@pytest.mark.fast
def test_one_replica_is_the_formula():
    with jax.enable_x64(True):
        w, x, bank, index = sharded_case()
        (losses, z, _, _), moved = over_replicas(1, w, x, bank, index)
        v = np.asarray(x @ w)
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        scores = np.einsum("nd,nkd->nk", v, np.asarray(bank)[np.asarray(index)])
        assert float(z) == pytest.approx(np.exp(scores / 0.2).mean() * 20, rel=1e-12)
        assert float(losses[0]) == pytest.approx(numpy_nce(scores, float(z), 20, 0.2), rel=1e-12)
        assert float(losses[1]) == pytest.approx(numpy_softmax(v, np.asarray(bank), index[:, 0], 20, 0.2), rel=1e-12)
        wanted = np.array(bank)
        for i, row in zip(np.asarray(index[:, 0]), v, strict=True):
            mean = (wanted[i] + row) / 2
            wanted[i] = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(moved, wanted, rtol=1e-12)


@pytest.mark.fast
@pytest.mark.parametrize(("devices", "mapping"), [(2, "shard_map"), (8, "shard_map"), (8, "pmap")])
def test_a_bank_in_shares_is_one_bank(devices, mapping):
    with jax.enable_x64(True):
        case = sharded_case()
        wanted, found = over_replicas(1, *case), over_replicas(devices, *case, mapping=mapping)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.fast
def test_noise_is_uniform_with_replacement_and_belongs_to_the_example():
    batch = {"index": jnp.arange(8) + 3, "position": jnp.arange(8)}
    index = np.asarray(npid.noise_index(jax.random.key(0), batch, 5000, 10))
    np.testing.assert_array_equal(index[:, 0], batch["index"])
    counts = np.bincount(index[:, 1:].reshape(-1), minlength=10)
    assert len(counts) == 10 and np.abs(counts - 4000).max() < 4 * 3600**0.5
    half = npid.noise_index(jax.random.key(0), {k: x[4:] for k, x in batch.items()}, 5000, 10)
    np.testing.assert_array_equal(half, index[4:])


@pytest.mark.fast
def test_a_fresh_bank():
    bank = np.asarray(memory_bank.new(jax.random.key(0), 1025, 48))
    assert bank.shape == (2048, 48) and np.abs(bank).max() <= 0.25 and bank.std() == pytest.approx(48**-0.5, rel=0.01)
    lengths = np.linalg.norm(memory_bank.new(jax.random.key(0), 10, 48, normalised=True), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_z_is_of_the_first_batch_and_only_the_batchs_rows_move():
    run = tiny.run("npid", **{"method.noise": 64, "method.temperature": 0.2})
    ts, batch, loss = tiny.fresh(run), tiny.batch_of(run, 8), jax.jit(tiny.loss_function(run))
    _, (one, _) = jax.device_get(loss(ts.params, ts.state, batch))
    _, (two, _) = jax.device_get(loss(ts.params, one, {**batch, "view": -batch["view"]}))
    assert ts.state["z"] == 0 and two["z"] == one["z"] > 0
    # About n times the mean of exp(v m / T) over random rows.
    spread = math.exp(1 / (2 * run.method.out * run.method.temperature**2))
    assert one["z"] == pytest.approx(run.info.num_examples * spread, rel=0.3)
    old, new = np.asarray(ts.state["bank"]), one["bank"]
    np.testing.assert_array_equal(np.flatnonzero((old != new).any(1)), np.arange(8))
    np.testing.assert_allclose(np.linalg.norm(new[:8], axis=1), 1, rtol=1e-5)


class OneRow(npid.NPID):
    """All images look up and move one row of the bank."""

    def loss(self, params, state, batch, **rest):
        return super().loss(params, state, {**batch, "index": 0 * batch["index"]}, **rest)


def test_with_one_row_for_all_it_collapses():
    run = tiny.run("npid", batch_size=32, epochs=5, **{"model.width": 16})
    right = tiny.overfit(run, 60)[3][-1]
    broken = tiny.overfit(run, 60, OneRow(**vars(run.method)))[3][-1]
    healthy = 0.5 / run.method.out**0.5
    assert right["projection_std"] > healthy and right["instance_top1"] > 0.9
    assert broken["projection_std"] < 0.5 * healthy
