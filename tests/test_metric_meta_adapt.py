"""Losses of metric learning, meta-learning and adaptation against reference values, in value and gradient."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from ssl_jax import dist, losses
from ssl_jax.methods.meta.maml import MAML, adapted
from ssl_jax.methods.meta.protonet import prototype_logits
from ssl_jax.methods.metric.contrastive_pair import contrastive_loss
from ssl_jax.methods.metric.n_pairs import n_pair_loss
from ssl_jax.methods.metric.supcon import supcon_loss
from ssl_jax.methods.metric.triplet import MINING, triplet_loss
from ssl_jax.methods.shared.embedding import Rows
from ssl_jax.methods.shared.two_domains import ramp
from ssl_jax.models.convnet import ConvNet
from ssl_jax.runtime.errors import UserError


@pytest.fixture
def wave2(golden):
    folder = golden.parent / "golden_wave2"
    if not folder.is_dir():
        pytest.skip("reference numbers are not on this machine")

    def load(name):
        with np.load(folder / f"{name}.npz") as file:
            return {key: file[key] for key in file}

    with jax.enable_x64(True):
        yield load


def test_protonet_agrees(wave2):
    given = wave2("protonet_5way3shot4query")

    def loss(support, query):
        logits = prototype_logits(support, query.reshape(-1, query.shape[-1]))
        return losses.cross_entropy(logits, jnp.repeat(jnp.arange(5), 4)), logits

    (value, logits), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        jnp.asarray(given["support"]), jnp.asarray(given["query"])
    )
    np.testing.assert_allclose(value, given["loss"], rtol=1e-9)
    np.testing.assert_allclose(losses.accuracy(logits, jnp.repeat(jnp.arange(5), 4)), given["accuracy"])
    np.testing.assert_allclose(grads[0], given["grad_support"], atol=1e-9)
    np.testing.assert_allclose(grads[1], given["grad_query"], atol=1e-9)


def test_prototypes_do_not_mind_an_offset_or_a_repeated_support():
    draw = np.random.default_rng(0)
    support, queries = draw.normal(size=(3, 2, 4)), draw.normal(size=(5, 4))
    there = prototype_logits(support, queries)
    np.testing.assert_allclose(prototype_logits(support + 7, queries + 7), there, atol=1e-4)
    np.testing.assert_allclose(prototype_logits(np.repeat(support, 3, 1), queries), there, rtol=1e-5)


TRIPLETS = {
    "every": "all_mean",
    "all": "all_nonzero",
    "semihard": "semihard_nonzero",
    "hard": "hard_nonzero",
    "nearest_semihard": "tfa_semihard",
    "batch_hard": "batch_hard_hinge",
}


def rows_of(z, labels):
    """Embeddings as the rows of one device."""
    return Rows(jnp.asarray(z), jnp.asarray(labels), jnp.arange(len(z)))


@pytest.mark.parametrize("mining", [*MINING, "softplus"])
def test_triplets_agree(wave2, mining):
    given = wave2("triplet_mining_margin0.3")
    key = TRIPLETS.get(mining, "batch_hard_softplus")
    options = {"margin": 0.0, "mining": "batch_hard"} if mining == "softplus" else {"margin": 0.3, "mining": mining}
    value, grad = jax.value_and_grad(lambda z: triplet_loss(rows_of(z, given["y"]), **options)[0])(
        jnp.asarray(given["z"])
    )
    np.testing.assert_allclose(value, given[key], rtol=1e-7)
    if f"grad_{key}" in given:
        np.testing.assert_allclose(grad, given[f"grad_{key}"], atol=1e-7)
    other = {**options, "squared": True}
    assert abs(float(triplet_loss(rows_of(given["z"], given["y"]), **other)[0]) - given[key]) > 1e-6


def test_squared_triplets_by_hand():
    draw = np.random.default_rng(3)
    z, labels = draw.normal(size=(7, 4)), np.array([0, 0, 0, 1, 1, 2, 2])
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    squared = np.square(unit[:, None] - unit).sum(-1)
    triplets = [
        max(squared[a, p] - squared[a, n] + 0.2, 0)
        for a, p, n in itertools.product(range(7), repeat=3)
        if a != p and labels[a] == labels[p] != labels[n]
    ]
    found, _ = triplet_loss(rows_of(z, labels), margin=0.2, mining="every", squared=True)
    assert float(found) == pytest.approx(np.mean(triplets), rel=1e-5)


PAIRS = {
    "double_margin_squared": {
        "positive_margin": 0.2,
        "negative_margin": 0.9,
        "reduction": "hadsell",
        "normalise": True,
    },
    "single_margin_squared": {"positive_margin": 0, "negative_margin": 1, "reduction": "hadsell", "normalise": False},
    "pml_default": {"positive_margin": 0, "negative_margin": 1, "reduction": "nonzero", "normalise": True},
}


@pytest.mark.parametrize("key", PAIRS)
def test_contrastive_pairs_agree(wave2, key):
    given = wave2("contrastive_pairs")

    def loss(z, **changes):
        return contrastive_loss(rows_of(z, given["y"]), **PAIRS[key] | changes)

    value, grad = jax.value_and_grad(loss)(jnp.asarray(given["z"]))
    np.testing.assert_allclose(value, given[key], rtol=1e-7)
    np.testing.assert_allclose(grad, given[f"grad_{key}"], atol=1e-7)
    other = {"hadsell": "nonzero", "nonzero": "hadsell"}[PAIRS[key]["reduction"]]
    for change in ({"reduction": other}, {"normalise": not PAIRS[key]["normalise"]}):
        assert abs(float(loss(given["z"], **change)) - given[key]) > 1e-3


def test_a_pair_agrees_with_the_first_reference_values(golden):
    """Each pair by itself: half the squared distance, or half the squared hinge; the mean of all."""
    with np.load(golden / "contrastive_pair_margin1.npz") as file:
        given = {name: file[name] for name in file}
    with jax.enable_x64(True):
        found = [
            contrastive_loss(rows_of(np.stack([a, b]), [0, int(y)]), **PAIRS["single_margin_squared"])
            for a, b, y in zip(given["x0"], given["x1"], given["y"], strict=True)
        ]
    wanted = next(given[name] for name in ("loss", "value") if name in given)
    np.testing.assert_allclose(np.mean(found), wanted, rtol=1e-7)


def alternating(a, p, labels):
    """Anchors and positives as the rows of a batch."""
    return rows_of(jnp.stack([a, p], 1).reshape(-1, a.shape[1]), np.repeat(labels, 2))


@pytest.mark.parametrize("key", ["unique_l2", "unique_no_l2", "normalised_no_l2", "repeated_label_l2"])
def test_n_pairs_agree(wave2, key):
    given = wave2("n_pairs_l2reg0.002")
    labels = given["repeated_labels"] if key.startswith("repeated") else np.arange(5)
    options = {"penalty": 0.002 if key.endswith("_l2") and "no_l2" not in key else 0.0}
    options["normalise"] = key.startswith("normalised")

    def loss(a, p):
        return n_pair_loss(alternating(a, p, labels), **options)[0]

    a, p = jnp.asarray(given["a"]), jnp.asarray(given["p"])
    value, grads = jax.value_and_grad(loss, (0, 1))(a, p)
    np.testing.assert_allclose(value, given[key], rtol=1e-7)
    for name, grad in zip("ap", grads, strict=True):
        np.testing.assert_allclose(grad, given[f"grad_{name}_{key}"], atol=1e-7)
    swapped = n_pair_loss(alternating(p, a, labels), **options)[0]
    assert abs(float(swapped) - float(value)) > 1e-4  # an anchor is no positive


def _supcon(z, labels, temperature):
    """Eq. 2 of the paper, term by term."""
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    scores, terms = np.exp(unit @ unit.T / temperature), []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            terms.append(-np.mean([np.log(scores[i, p] / scores[i, others].sum()) for p in positives]))
    return np.mean(terms)


def test_supcon_is_the_paper_s_equation():
    draw = np.random.default_rng(4)
    z, labels = draw.normal(size=(9, 5)), np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])
    with jax.enable_x64(True):
        value, grad = jax.value_and_grad(lambda z: supcon_loss(rows_of(z, labels), temperature=0.2))(jnp.asarray(z))
    assert float(value) == pytest.approx(_supcon(z, labels, 0.2), rel=1e-9)
    for i, j in ((0, 0), (4, 2), (8, 1)):
        step = np.zeros_like(z)
        step[i, j] = 1e-5
        slope = (_supcon(z + step, labels, 0.2) - _supcon(z - step, labels, 0.2)) / 2e-5
        assert float(grad[i, j]) == pytest.approx(slope, rel=1e-5, abs=1e-8)
    # Averaged inside the logarithm (eq. 3) it is another loss.
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    scores = np.exp(unit @ unit.T / 0.2) * (1 - np.eye(9))
    same = (labels[:, None] == labels) * (1 - np.eye(9))
    inside = -np.log((scores * same).sum(1)[:8] / same.sum(1)[:8] / scores.sum(1)[:8]).mean()
    assert abs(float(value) - inside) > 1e-3


LOSSES = {
    **{f"triplet {name}": functools.partial(triplet_loss, margin=0.3, mining=name) for name in MINING},
    **{name: functools.partial(contrastive_loss, **options) for name, options in PAIRS.items()},
    "n_pairs": functools.partial(n_pair_loss, penalty=0.1),
    "supcon": functools.partial(supcon_loss, temperature=0.2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_replicas_are_those_of_the_batch(name):
    draw = np.random.default_rng(1)
    x, w, labels = draw.normal(size=(8, 5)), draw.normal(size=(5, 4)), np.repeat(draw.permutation(4), 2)

    def over(count):
        def replica(w, x, labels):
            def loss(w):
                found = LOSSES[name](Rows(x @ w, labels, dist.positions(len(x))), axis_name=dist.AXIS)
                return dist.mean(found[0] if isinstance(found, tuple) else found)

            value, grad = jax.value_and_grad(loss)(w)
            return value, dist.mean(grad)

        mesh = dist.make_mesh(jax.devices()[:count])
        return dist.map_replicas(replica, mesh, (P(), P(dist.AXIS), P(dist.AXIS)), P())(w, x, labels)

    with jax.enable_x64(True):
        for found, wanted in zip(over(8), over(1), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_all_points_in_one_lose_the_margin():
    own = rows_of(jnp.ones((6, 3)), jnp.arange(6) // 2)
    assert float(triplet_loss(own, margin=0.2, mining="batch_hard")[0]) == pytest.approx(0.2, abs=1e-5)
    assert float(triplet_loss(own, margin=0, mining="batch_hard")[0]) == pytest.approx(math.log(2), abs=1e-5)
    for loss in LOSSES.values():

        def value(z, loss=loss):
            found = loss(own._replace(z=z))
            return found[0] if isinstance(found, tuple) else found

        assert np.isfinite(jax.grad(value)(own.z)).all()


def test_dann_agrees(wave2):
    given = {name: jnp.asarray(value) for name, value in wave2("dann_grl_lambda0.37").items()}

    def loss(weights):
        source, target = (jnp.tanh(given[f"x_{name}"] @ weights["Wf"]) for name in ("source", "target"))
        labels = losses.cross_entropy(source @ weights["Wy"], given["y_source"])
        turned = losses.reverse_gradient(jnp.concatenate([source, target]), 0.37)
        is_target = jnp.repeat(jnp.arange(2.0), len(source))
        domains = optax.sigmoid_binary_cross_entropy((turned @ weights["Wd"]).reshape(-1), is_target).mean()
        return labels + domains, (labels, domains)

    (_, (labels, domains)), grads = jax.value_and_grad(loss, has_aux=True)({k: given[k] for k in ("Wf", "Wy", "Wd")})
    np.testing.assert_allclose(labels, given["label_loss"], rtol=1e-9)
    np.testing.assert_allclose(domains, given["domain_loss"], rtol=1e-9)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, given[f"grad_{name}"], atol=1e-9)


def test_the_reversal_rises_to_one():
    assert float(ramp(jnp.zeros(()))) == 0
    assert float(ramp(jnp.ones(()))) == pytest.approx(0.99991, abs=1e-5)
    turn = functools.partial(losses.reverse_gradient, weight=0.3)
    x = jnp.linspace(-2, 2, 5)
    np.testing.assert_array_equal(turn(x), x)
    np.testing.assert_allclose(jax.jacobian(turn)(x), -0.3 * np.eye(5), rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(turn, (x,), (jnp.ones(5),))[1], -0.3, rtol=1e-6)


def _mlp(weights, x):
    return jnp.tanh(x @ weights["W1"] + weights["b1"]) @ weights["W2"] + weights["b2"]


def _outer(given, weights, *, steps, heads, first_order, own=lambda tree: tree):
    """Mean over the tasks of the loss of queries after the inner loop."""

    def task(xs, ys, xq, yq):
        start = own(weights)

        def inner(p):
            return losses.cross_entropy(_mlp(start | p, xs), ys)

        moved = {name: start[name] for name in heads}
        after = start | adapted(inner, moved, steps=steps, rate=0.4, first_order=first_order)
        return losses.cross_entropy(_mlp(after, xq), yq)

    return jnp.mean(jax.lax.map(lambda x: task(*x), tuple(given)))


ALL, HEAD = ("W1", "b1", "W2", "b2"), ("W2", "b2")


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", ["maml", "anil", "fomaml"])
def test_maml_agrees(wave2, kind, steps):
    given = {name: jnp.asarray(value) for name, value in wave2("maml_mlp_alpha0.4").items()}
    weights = {name: given[name] for name in ALL}
    data = [given[name] for name in ("x_support", "y_support", "x_query", "y_query")]
    options = {"steps": steps, "heads": HEAD if kind == "anil" else ALL, "first_order": kind == "fomaml"}
    value, grads = jax.value_and_grad(lambda w: _outer(data, w, **options))(weights)
    wanted = given[f"{'anil' if kind == 'anil' else 'maml'}_{steps}step"]
    np.testing.assert_allclose(value, wanted, rtol=1e-9)
    for name in ALL:
        np.testing.assert_allclose(grads[name], given[f"grad_{name}_{kind}_{steps}step"], atol=1e-9)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
@pytest.mark.parametrize("devices", [2, 8])
def test_the_inner_gradient_is_the_device_s_own(devices, mapping):
    """Without `dist.local` it would be the sum over all devices under shard_map, and no error."""
    draw = np.random.default_rng(2)
    weights = {"W1": draw.normal(size=(4, 5)), "b1": np.zeros(5), "W2": draw.normal(size=(5, 3)), "b2": np.zeros(3)}
    data = (
        *(draw.normal(size=(8, 6, 4)), draw.integers(0, 3, (8, 6))),
        *(draw.normal(size=(8, 9, 4)), draw.integers(0, 3, (8, 9))),
    )
    options = {"steps": 2, "heads": ALL, "first_order": False}

    def over(count, own):
        def replica(weights, *data):
            value, grads = jax.value_and_grad(lambda w: dist.mean(_outer(data, w, own=own, **options)))(weights)
            return value, dist.mean(grads)

        mesh = dist.make_mesh(jax.devices()[:count])
        return dist.map_replicas(replica, mesh, (P(), *[P(dist.AXIS)] * 4), P(), mapping=mapping)(weights, *data)

    with jax.enable_x64(True):
        wanted, found = over(1, dist.local), over(devices, dist.local)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12), found, wanted)
        if mapping == "shard_map":
            assert abs(float(over(devices, lambda tree: tree)[0]) - float(wanted[0])) > 1e-3


def test_memory_does_not_grow_with_the_steps_of_the_inner_loop():
    """What a step keeps for its second derivative is made anew: ten steps take less than two would without that."""
    draw = np.random.default_rng(0)
    weights = {"a": jnp.asarray(draw.normal(size=(64, 256))), "b": jnp.asarray(draw.normal(size=(256, 64)))}
    x = jnp.asarray(draw.normal(size=(512, 64)))

    def inner(w):
        return jnp.mean(jnp.square(jnp.tanh(x @ w["a"]) @ w["b"] - x))

    def memory(steps):
        def outer(w):
            return inner(adapted(inner, w, steps=steps, rate=0.1, first_order=False))

        return jax.jit(jax.grad(outer)).lower(weights).compile().memory_analysis().temp_size_in_bytes

    assert memory(10) < 1.5 * memory(2)


def test_maml_takes_more_steps_when_it_is_measured():
    """The outer loss after `test_steps`, of running statistics: as many steps of the inner loop by hand."""
    method = MAML(ConvNet(2, norm="none"), ways=2, shots=1, queries=3, test_steps=2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 4, 8, 8, 1)), jnp.float32)
    params, state = method.init(jax.random.key(0), {"view": x[0, 0]}, None)
    batch = {"view": x, "label": jnp.zeros((1, 2, 4), int)}
    options = {"rng": jax.random.key(0), "step": 0, "info": None}

    def loss_of(batch):
        return method.loss(params, state, batch, **options, train=False)[0]

    measured = jax.vmap(loss_of, axis_name=dist.AXIS)(jax.tree.map(lambda x: x[None], batch))[0]
    support, queries = x[0, :, :1].reshape(2, 8, 8, 1), x[0, :, 1:].reshape(6, 8, 8, 1)

    def loss(params, images, labels):
        h = method.backbone.apply({"params": params["backbone"]}, images, train=False)
        head = params["head"]["linear"]
        return losses.cross_entropy(h @ head["kernel"] + head["bias"], labels)

    for _ in range(2):
        grads = jax.grad(loss)(params, support, jnp.arange(2))
        params = jax.tree.map(lambda p, g: p - method.inner_rate * g, params, grads)
    assert float(measured) == pytest.approx(float(loss(params, queries, jnp.repeat(jnp.arange(2), 3))), rel=1e-5)
    with pytest.raises(UserError, match="inner_steps is 1 and test_steps 0"):
        MAML(ConvNet(2), test_steps=0).check(224, 224, 3)


def test_inner_steps_are_computed_anew(monkeypatch):
    """An inner step more keeps its parameters until the outer gradient, and not what its second derivative wants."""
    draw = np.random.default_rng(0)
    weights = {"W1": draw.normal(size=(4, 8)), "b1": np.zeros(8), "W2": draw.normal(size=(8, 3)), "b2": np.zeros(3)}
    data = draw.normal(size=(1, 4096, 4)), draw.integers(0, 3, (1, 4096))
    options = {"heads": ALL, "first_order": False}

    def grown():
        """Bytes that eight steps more take."""
        sizes = []
        for steps in (1, 9):
            outer = jax.grad(functools.partial(_outer, (*data, *data), steps=steps, **options))
            sizes.append(jax.jit(outer).lower(weights).compile().memory_analysis().temp_size_in_bytes)
        return sizes[1] - sizes[0]

    with_it = grown()
    monkeypatch.setattr(jax, "checkpoint", lambda fn: fn)
    assert grown() > 10 * max(with_it, 1)
