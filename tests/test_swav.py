"""SwAV: Sinkhorn's codes, the swapped prediction, multi-crop, the queue and the prototypes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny
from tiny import Pixels

from ssl_jax import dist, optim
from ssl_jax.methods.contract import Info, flat
from ssl_jax.methods.joint.swav import SwAV, sinkhorn, swapped_prediction
from ssl_jax.methods.shared import multicrop
from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.parts import apply
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError


def generator(n, d, s):
    """The input generator A(n, d, s) of the specification sheet, section 10; rows of length one."""
    i, j = np.mgrid[:n, :d]
    return unit(np.sin(0.7 * i + 1.3 * j + s) + 0.1 * np.cos(i * j + s))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def numpy_sinkhorn(scores, epsilon=0.05, iterations=3):
    """As the authors write it: a matrix of prototypes and rows, divided by sums."""
    q = np.exp(np.float64(scores) / epsilon).T
    k, n = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True) * k
        q /= q.sum(0, keepdims=True) * n
    return (q * n).T


def numpy_loss(scores, codes, temperature):
    """Pair by pair; scores is a list of crops."""
    total = 0.0
    for a, q in enumerate(codes):
        for v, s in enumerate(scores):
            log_p = s / temperature - np.log(np.exp(s / temperature).sum(1, keepdims=True))
            total -= (v != a) * (q * log_p).sum(1).mean()
    return total / (len(codes) * (len(scores) - 1))


def cosines(n=8, k=5, seed=0):
    draw = np.random.default_rng(seed).normal(size=(n + k, 4))
    return unit(draw[:n]) @ unit(draw[n:]).T


code = jax.jit(sinkhorn, static_argnames=("epsilon", "iterations", "axis_name"))


# Sinkhorn.


@pytest.mark.fast
def test_codes_agree_with_the_reference(golden):
    with np.load(golden / "sinkhorn_3iter_eps0.05.npz") as ref:
        q = code(ref["scores"])
        assert q.dtype == jnp.float32
        assert np.abs(q - ref["codes"]).max() <= 1e-5 * np.abs(ref["codes"]).max()


@pytest.mark.fast
def test_codes_have_the_values_of_the_specification():
    with jax.enable_x64(True):
        q = np.asarray(code(jnp.asarray(generator(4, 3, 0.1) @ generator(5, 3, 2.3).T)))
    np.testing.assert_allclose(q[0], (0, 0, 0.000002, 0.216604, 0.783394), atol=1e-6)
    np.testing.assert_allclose(q.sum(0), (1.07382, 0.54170, 0.57719, 0.96286, 0.84443), atol=1e-5)
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-12)


@pytest.mark.fast
@pytest.mark.parametrize("case", ["plain", "duplicates", "all equal", "one row", "sharp", "soft"])
def test_codes_agree_with_numpy(case):
    scores = cosines(n=1 if case == "one row" else 8)
    if case == "duplicates":
        scores[3:6], scores[:, 2] = scores[0], scores[:, 1]
    if case == "all equal":
        scores[:] = 0.3
    epsilon = {"sharp": 0.01, "soft": 1.0}.get(case, 0.05)
    with jax.enable_x64(True):
        q = code(jnp.asarray(scores), epsilon=epsilon)
        np.testing.assert_allclose(q, numpy_sinkhorn(scores, epsilon), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(code(jnp.asarray(scores + 7), epsilon=epsilon), q, rtol=1e-9, atol=1e-12)
    assert np.asarray(code(jnp.asarray(scores, jnp.bfloat16), epsilon=epsilon)).dtype == np.float32


def test_codes_are_even_in_the_limit_and_do_not_overflow():
    scores = cosines()
    q = np.asarray(code(jnp.asarray(scores, jnp.float32), iterations=300))
    np.testing.assert_allclose(q.sum(0), 8 / 5, rtol=1e-3)
    q = np.asarray(code(jnp.asarray(scores, jnp.float32), epsilon=1e-3))
    assert np.isfinite(q).all()
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-4)


@pytest.mark.fast
def test_rows_that_are_not_counted_change_no_other_code():
    scores = jnp.asarray(cosines(), jnp.float32)
    counted = np.array([False, False, True, True, True, False, True, True])
    q = np.asarray(code(scores, counted=counted))
    assert np.isfinite(q).all()
    np.testing.assert_allclose(q[counted], code(scores[counted]), rtol=1e-5, atol=1e-7)
    assert np.abs(q[counted] - np.asarray(code(scores))[counted]).max() > 0.01  # but counting them does


@pytest.mark.fast
@pytest.mark.parametrize(("devices", "mapping"), [(2, "shard_map"), (8, "shard_map"), (8, "pmap")])
def test_codes_are_those_of_the_whole_batch(devices, mapping):
    """On eight devices, one row each."""
    scores = jnp.asarray(cosines(), jnp.float32)
    mesh = dist.make_mesh(jax.devices()[:devices])
    whole = dist.map_replicas(
        functools.partial(sinkhorn, axis_name=dist.AXIS), mesh, (P(dist.AXIS),), P(dist.AXIS), mapping=mapping
    )
    np.testing.assert_allclose(whole(scores), numpy_sinkhorn(scores), rtol=1e-4, atol=1e-6)


# The swapped prediction.


@pytest.mark.fast
def test_loss_agrees_with_the_reference(golden):
    with np.load(golden / "swav_2x_3low_tau0.1.npz") as ref:
        scores = jnp.stack([ref[f"scores{v}"] for v in range(5)], 1)
        wanted, grads = float(ref["loss"][0]), np.stack([ref[f"grad{v}"] for v in range(5)], 1)

    @jax.jit
    @jax.value_and_grad
    def loss(scores):
        codes = jnp.stack([sinkhorn(scores[:, a]) for a in range(2)], 1)
        return swapped_prediction(scores, codes, temperature=0.1)

    value, gradient = loss(scores)
    assert float(value) == pytest.approx(wanted, rel=1e-5)
    assert np.abs(gradient - grads).max() <= 1e-5 * np.abs(grads).max()


@pytest.mark.fast
def test_loss_has_the_value_of_the_specification():
    c = generator(5, 3, 2.3)
    scores = np.stack([generator(4, 3, s) @ c.T for s in (0.1, 0.9)], 1)
    with jax.enable_x64(True):
        codes = jnp.stack([sinkhorn(jnp.asarray(scores[:, a])) for a in range(2)], 1)
        for order in ([0, 1], [1, 0]):  # crops may be swapped
            value = swapped_prediction(jnp.asarray(scores[:, order]), codes[:, order], temperature=0.1)
            assert float(value) == pytest.approx(4.903898, abs=1e-6)


@pytest.mark.fast
def test_loss_agrees_with_numpy():
    scores = [cosines(6, seed=s) for s in range(4)]
    codes = [unit(np.abs(cosines(6, seed=9 + a))) ** 2 for a in range(2)]
    with jax.enable_x64(True):
        found = swapped_prediction(jnp.stack(scores, 1), jnp.stack(codes, 1), temperature=0.2)
        assert float(found) == pytest.approx(numpy_loss(scores, codes, 0.2), rel=1e-12)
        to_codes = jax.grad(swapped_prediction, 1)(jnp.stack(scores, 1), jnp.stack(codes, 1), temperature=0.2)
    np.testing.assert_array_equal(to_codes, 0)
    flat = swapped_prediction(jnp.ones((6, 4, 5)), jnp.stack(codes, 1), temperature=0.2)
    assert float(flat) == pytest.approx(np.log(5), rel=1e-6)  # the answer by chance


# Networks.


INFO = Info(num_examples=17, batch_size=8, steps_per_epoch=2, total_steps=20)


def small(**changes):
    fields = {"small_crops": 1, "hidden": 7, "out": 4, "prototypes": 5, "queue_length": 20, "queue_start": 1}
    return SwAV(backbone=Pixels(6), **(fields | changes))


def crops_of(seed, n=8):
    draw = np.random.default_rng(seed).normal(size=(3, n, 3, 3, 1))
    return {name: jnp.asarray(x, jnp.float32) for name, x in zip(("large1", "large2", "small1"), draw, strict=True)}


@pytest.mark.fast
def test_parameter_counts_are_the_authors():
    method = SwAV(backbone=ConvNet(width=512))  # 2048 features, as a ResNet-50 has
    params, state = jax.eval_shape(lambda: method.init(jax.random.key(0), {"large1": jnp.zeros((2, 8, 8, 3))}, INFO))
    cancelled = 2048  # biases before a BatchNorm
    assert sum(x.size for x in jax.tree.leaves(params["projector"])) + cancelled == 4_462_720
    assert params["prototypes"].size == 384_000
    assert set(state) == {"stats"} and list(method.views()) == ["large1", "large2", *(f"small{i}" for i in range(1, 7))]


def test_crops_of_one_size_are_one_batch_and_the_head_sees_all():
    backbone = ConvNet(width=2)
    method = dataclasses.replace(small(), backbone=backbone)
    draw = np.random.default_rng(0)
    large, tiny_crops = draw.normal(size=(2, 4, 8, 8, 1)), draw.normal(size=(2, 4, 6, 6, 1))
    crops = [jnp.asarray(x, jnp.float32) for x in (*large, *tiny_crops)]
    head = method._head()

    def both(params, stats, crops):
        h, z, after = multicrop.embed(backbone, head, params, stats, crops, train=True)
        parts, by_hand = [], stats
        for pair in (crops[:2], crops[2:]):
            y, by_hand = apply(backbone, "backbone", params, by_hand, jnp.concatenate(pair), train=True)
            parts.append(y)
        y = jnp.concatenate(parts)
        u, by_hand = apply(head, "projector", params, by_hand, y, train=True)
        return (h, z, after), (y, u, by_hand)

    params, state = method.init(jax.random.key(0), {"large1": crops[0]}, INFO)
    mesh = dist.make_mesh(jax.devices()[:1])
    out = (P(dist.AXIS), P(dist.AXIS), P())
    mapped = jax.jit(jax.shard_map(both, mesh=mesh, in_specs=(P(), P(), P(dist.AXIS)), out_specs=(out, out)))
    (h, z, after), (y, u, by_hand) = mapped(params, state["stats"], crops)
    np.testing.assert_allclose(h.swapaxes(0, 1).reshape(16, -1), y, atol=1e-5)
    np.testing.assert_allclose(z.swapaxes(0, 1).reshape(16, -1), unit(np.asarray(u)), atol=1e-5)
    tiny.assert_close(after, by_hand, 1e-5)


# The queue.


@functools.cache
def queue_history(devices):
    """Six updates of three steps: before each the queue, and its codes' loss; parameters drift in between."""
    method = small()
    mesh = dist.make_mesh(jax.devices()[:devices])

    def replica(params, state, batch, step):
        value, (state, _) = method.loss(params, state, batch, rng=None, step=step, info=INFO)
        z = multicrop.embed(method.backbone, method._head(), params, state["stats"], list(batch.values()), train=True)[
            1
        ]
        return dist.mean(value), state, z

    specs = method.specs()
    step = dist.map_replicas(replica, mesh, (P(), specs, P(dist.AXIS), P()), (P(), specs, P(dist.AXIS)))
    params, state = jax.jit(lambda: method.init(jax.random.key(0), crops_of(0), INFO))()
    rows = []
    for number in range(6):
        loss, after, z = step(params, state, crops_of(number), number)
        rows.append((np.asarray(state["queue"]), float(loss), np.asarray(z), np.asarray(params["prototypes"])))
        state, params = after, {**params, "prototypes": jnp.roll(params["prototypes"], 1, 1)}
    return rows


def test_queue_is_filled_from_its_epoch_and_read_once_it_is_full():
    rows = queue_history(1)
    assert rows[0][0].shape == (2, 2, 8, 4)  # 20 embeddings hold two batches
    pushed = [z[:, :2].swapaxes(0, 1) for _, _, z, _ in rows]  # each [2, 8, 4]
    for step, (queue, loss, z, c) in enumerate(rows):
        newest = [pushed[s] for s in range(step - 1, 1, -1)][:2]  # epoch 1 begins at step 2
        wanted = np.stack([*newest, *[np.zeros((2, 8, 4))] * (2 - len(newest))], 1)
        np.testing.assert_allclose(queue, wanted, atol=1e-6)
        scores = [z[:, v] @ c.T for v in range(3)]
        # Two pushes, after steps 2 and 3: full from step 4 on. Old embeddings meet the prototypes of today.
        queued = [queue[a].reshape(-1, 4) @ c.T if step >= 4 else np.zeros((0, 5)) for a in range(2)]
        codes = [numpy_sinkhorn(np.concatenate([queued[a], scores[a]]))[-8:] for a in range(2)]
        assert loss == pytest.approx(numpy_loss(scores, codes, 0.1), rel=1e-4)
        alone = numpy_loss(scores, [numpy_sinkhorn(s) for s in scores[:2]], 0.1)
        assert (abs(loss - alone) > 1e-3) == (step >= 4)


def test_queue_does_not_depend_on_the_devices():
    for one, two in zip(queue_history(1), queue_history(2), strict=True):
        np.testing.assert_allclose(two[0], one[0], atol=1e-5)
        assert two[1] == pytest.approx(one[1], rel=1e-4)


@pytest.mark.fast
def test_queue_shorter_than_a_batch_is_refused():
    with pytest.raises(UserError, match="queue_length is 7, less than a batch of 8"):
        small(queue_length=7).init(jax.random.key(0), crops_of(0), INFO)


# The prototypes.


@pytest.mark.fast
def test_prototypes_have_length_one_and_wait_an_epoch():
    method, c = small(), get_config("swav", "digits").optim
    params, state = method.init(jax.random.key(0), crops_of(0), INFO)
    np.testing.assert_allclose(np.linalg.norm(params["prototypes"], axis=1), 1, rtol=1e-6)
    labels = method.groups(params)
    assert labels["prototypes"] == "prototypes" and set(jax.tree.leaves(labels["projector"])) == {"default"}
    optimizer, _ = optim.build(c, labels, 8, INFO.steps_per_epoch, INFO.total_steps)
    opt_state = optimizer.init(params)
    for step in range(3):
        updates, opt_state = optimizer.update(jax.tree.map(jnp.ones_like, params), opt_state, params)
        assert bool(jnp.any(updates["prototypes"] != 0)) == (step >= 2)
        assert jnp.any(updates["projector"]["out"]["kernel"] != 0)
        params, state = method.after_update(jax.tree.map(jnp.add, params, updates), state, jnp.asarray(step), INFO)
        np.testing.assert_allclose(np.linalg.norm(params["prototypes"], axis=1), 1, rtol=1e-6)


# Collapse.


@dataclasses.dataclass(frozen=True)
class WithoutSinkhorn(SwAV):
    """Crops are assigned where they are, however many others are."""

    def _codes(self, scores, queued, full):
        return jax.lax.stop_gradient(jax.nn.softmax(scores[:, :2] / self.epsilon))


def test_without_sinkhorn_it_collapses():
    """Gradient descent on fixed views of 32 images."""
    images = np.random.default_rng(0).normal(size=(32, 3, 3, 1))
    noise = 0.3 * np.random.default_rng(1).normal(size=(3, 32, 3, 3, 1))
    batch = dict(zip(("large1", "large2", "small1"), jnp.asarray(images + noise, jnp.float32), strict=True))

    def fit(cls):
        method = cls(**vars(small(queue_length=0, hidden=32, prototypes=16)))

        def replica(batch):
            def update(carry, _):
                def loss(params):
                    value, (state, aux) = method.loss(params, carry[1], batch, rng=None, step=0, info=INFO)
                    return dist.mean(value), (state, dist.mean(flat(aux.metrics)))

                (value, (state, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(carry[0])
                params = jax.tree.map(lambda p, g: p - 0.3 * g, carry[0], grads)
                return method.after_update(params, state, 0, INFO), (value, metrics)

            start = method.init(jax.random.key(0), batch, INFO)
            return jax.tree.map(lambda x: x[-1], jax.lax.scan(update, start, length=300)[1])

        mesh = dist.make_mesh(jax.devices()[:1])
        loss, metrics = jax.jit(jax.shard_map(replica, mesh=mesh, in_specs=P(), out_specs=P()))(batch)
        return float(loss), {name: float(x) for name, x in metrics.items()}

    loss, metrics = fit(SwAV)
    assert loss < np.log(16) / 2 and metrics["code_overlap"] > 0.8, (loss, metrics)
    assert metrics["prototypes_used"] > 12 and metrics["projection_std"] > 0.5 / 4**0.5, metrics
    loss, metrics = fit(WithoutSinkhorn)
    assert loss < 0.1 and metrics["prototypes_used"] < 2, (loss, metrics)  # the best of losses, for nothing
