"""DeepCluster-v2: spherical k-means, the loss over assigned images, the bank and the beginning of an epoch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny
from tiny import Pixels

from ssl_jax import dist
from ssl_jax.methods.contract import Info, flat
from ssl_jax.methods.joint.deepcluster import UNASSIGNED, DeepCluster, clustering_loss
from ssl_jax.methods.shared import multicrop
from ssl_jax.methods.shared.kmeans import kmeans
from ssl_jax.methods.shared.memory_bank import BLOCK
from ssl_jax.runtime.errors import UserError


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def points(n, d=6, groups=9, seed=0):
    """Noisy directions; padded with rows that would be seen if they were not left out."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, d))[rng.integers(0, groups, n)] + 0.3 * rng.normal(size=(n, d))
    return np.concatenate([unit(x), np.full((-n % BLOCK, d), 100.0)])


def numpy_kmeans(x, start, iterations):
    """Cluster by cluster; one without rows stays where it is."""
    centroids = x[start]
    for _ in range(iterations):
        nearest = np.argmax(x @ centroids.T, 1)
        for k in range(len(centroids)):
            if (nearest == k).any():
                centroids[k] = unit(x[nearest == k].mean(0))
    return centroids, np.argmax(x @ centroids.T, 1)


# k-means.


@pytest.mark.parametrize("case", ["plain", "duplicates", "a cluster a row"])
def test_kmeans_agrees_with_numpy(case):
    count = {"plain": 1500, "duplicates": 1500, "a cluster a row": 40}[case]
    clusters = 40
    x = points(count)
    if case == "duplicates":
        x[:count] = x[np.arange(count) % 25]  # fewer directions than clusters: some are empty from the start
    key = jax.random.key(3)
    with jax.enable_x64(True):
        centroids, found = kmeans(jnp.asarray(x), key, count=count, clusters=clusters, iterations=4, spherical=True)
        start = np.asarray(jax.random.permutation(key, count)[:clusters])
    wanted, assignments = numpy_kmeans(x[:count], start, 4)
    np.testing.assert_allclose(centroids, wanted, atol=1e-12)
    assert found.dtype == jnp.int32 and found.shape == (count,)
    if case == "duplicates":  # ties are broken by rounding: compare the centroids, not their numbers
        assert len(np.unique(found)) <= 25
        np.testing.assert_allclose(wanted[found], wanted[assignments], atol=1e-7)
    else:
        np.testing.assert_array_equal(found, assignments)


def test_kmeans_finds_what_there_is_on_any_number_of_devices():
    x, groups = points(2000).astype(np.float32), 9
    mesh = dist.make_mesh(jax.devices())
    cluster = functools.partial(kmeans, count=2000, clusters=27, iterations=10, spherical=True)
    one, found = cluster(jnp.asarray(x), jax.random.key(0))
    compiled = kmeans._cache_size()
    np.testing.assert_array_equal(cluster(jnp.asarray(x), jax.random.key(0))[0], one)
    assert kmeans._cache_size() == compiled
    eight, there = cluster(jax.device_put(x, NamedSharding(mesh, P(dist.AXIS))), jax.random.key(0))
    np.testing.assert_allclose(eight, one, atol=1e-5)
    np.testing.assert_array_equal(there, found)
    true = np.random.default_rng(0)
    true.normal(size=(groups, 6))
    label = true.integers(0, groups, 2000)
    pure = sum(np.bincount(label[np.asarray(found) == k]).max(initial=0) for k in range(27)) / 2000
    assert pure > 0.9
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-5)


# The loss.


def numpy_loss(scores, assignments, temperature):
    """Crop by crop and image by image, as torch's cross-entropy with ignore_index."""
    terms = []
    for s, t in zip(scores, assignments, strict=True):
        terms += [np.log(np.exp(row / temperature).sum()) - row[t] / temperature for row in s if t != UNASSIGNED]
    return np.mean(terms) if terms else 0.0


@pytest.mark.fast
@pytest.mark.parametrize("assignments", [(0, 3, 1, 1), (2, UNASSIGNED, 0, UNASSIGNED), (UNASSIGNED,) * 4])
def test_loss_agrees_with_numpy(assignments):
    scores = np.random.default_rng(0).uniform(-1, 1, size=(4, 3, 5))
    with jax.enable_x64(True):
        value, grad = jax.value_and_grad(clustering_loss)(
            jnp.asarray(scores), jnp.asarray(assignments), temperature=0.1
        )
    assert float(value) == pytest.approx(numpy_loss(scores, assignments, 0.1), rel=1e-12)
    direction = np.random.default_rng(1).normal(size=scores.shape)
    there, here = (numpy_loss(scores + h * direction, assignments, 0.1) for h in (1e-6, -1e-6))
    assert np.sum(np.asarray(grad) * direction) == pytest.approx((there - here) / 2e-6, rel=1e-5, abs=1e-9)
    np.testing.assert_array_equal(np.abs(grad).max((1, 2)) > 0, np.array(assignments) != UNASSIGNED)
    flat = clustering_loss(jnp.ones((4, 3, 5)), jnp.array([0, 1, 2, UNASSIGNED]), temperature=0.1)
    assert float(flat) == pytest.approx(np.log(5), rel=1e-6)


# The method.


INFO = Info(num_examples=30, batch_size=8, steps_per_epoch=3, total_steps=30)
METHOD = DeepCluster(backbone=Pixels(6), small_crops=1, hidden=16, out=4, prototypes=5)


def batch_of(seed, index):
    """Two crops and a small one of each image: the image and noise."""
    rng = np.random.default_rng(seed)
    images = np.random.default_rng(99).normal(size=(30, 3, 3, 1))[index]
    crops = jnp.asarray(images + 0.3 * rng.normal(size=(3, len(index), 3, 3, 1)), jnp.float32)
    return dict(zip(("large1", "large2", "small1"), crops, strict=True)) | {"index": jnp.asarray(index)}


@functools.cache
def mapped(devices=1):
    """One step's loss, state and embeddings; and the embedding of large crops alone."""

    def replica(params, state, batch):
        value, (state, aux) = METHOD.loss(params, state, batch, rng=None, step=0, info=INFO)
        crops = [batch[name] for name in METHOD.views()]
        z = multicrop.embed(METHOD.backbone, METHOD._head(), params, state["stats"], crops, train=True)[1]
        return dist.mean(value), state, z, dist.mean(flat(aux.metrics))

    mesh, specs = dist.make_mesh(jax.devices()[:devices]), METHOD.specs()
    step = dist.map_replicas(replica, mesh, (P(), specs, P(dist.AXIS)), (P(), specs, P(dist.AXIS), P()))
    embed = dist.map_replicas(METHOD._embed_large, mesh, (P(), specs, P(dist.AXIS)), P(dist.AXIS))
    return step, embed


@functools.cache
def begun():
    """Parameters and state with which the first epoch begins."""
    params, state = METHOD.init(jax.random.key(0), batch_of(0, np.arange(8)), INFO)

    def embed(fn):
        assert fn == METHOD._embed_large
        return mapped()[1](params, state, batch_of(1, np.arange(30)))

    return params, state, METHOD.on_epoch(params, state, rng=jax.random.key(5), step=0, info=INFO, embed=embed), embed


def test_first_epoch_fills_the_bank_and_every_epoch_clusters_it():
    params, fresh, state, embed = begun()
    assert "prototypes" not in params  # what the optimiser does not see is frozen
    assert (np.asarray(fresh["assignments"]) == UNASSIGNED).all()
    rows = np.asarray(embed(METHOD._embed_large))
    np.testing.assert_array_equal(state["bank"][:30], rows)
    np.testing.assert_array_equal(state["bank"][30:], 0)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, rtol=1e-5)
    assert state["bank"].shape == (BLOCK, 2, 4)

    def no_embed(fn):
        raise AssertionError("only the first epoch makes forward passes of its own")

    options = {"step": 3, "info": INFO, "embed": no_embed}
    again, twice, other = (METHOD.on_epoch(params, state, rng=jax.random.key(s), **options) for s in (6, 6, 7))
    tiny.assert_same(again, twice)
    assert np.any(np.asarray(again["assignments"] != other["assignments"]))
    for s in (state, again):
        for head in range(3):  # heads take the crops in turn
            c, x = np.asarray(s["prototypes"][head]), rows[:, head % 2]
            np.testing.assert_array_equal(s["assignments"][head], np.argmax(x @ c.T, 1))
            members = [x[np.asarray(s["assignments"][head]) == k] for k in range(5)]
            for k, of_k in enumerate(members):  # ten iterations on 30 rows converge
                if len(of_k):
                    np.testing.assert_allclose(c[k], unit(of_k.sum(0)), atol=1e-5)
        assert len(np.unique(s["assignments"][0])) > 1
    assert np.any(np.asarray(state["assignments"][0] != state["assignments"][2]))  # heads start apart


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_step_predicts_the_clusters_and_refreshes_its_rows(devices):
    params, _, state, _ = begun()
    index = np.random.default_rng(2).permutation(30)[:8]
    state = {**state, "assignments": state["assignments"].at[:, index[2]].set(UNASSIGNED)}
    loss, after, z, metrics = mapped(devices)[0](*jax.device_get((params, state)), batch_of(3, index))
    z, assignments = np.asarray(z), np.asarray(state["assignments"])[:, index]
    scores = [z @ np.asarray(c).T for c in state["prototypes"]]
    wanted = np.mean([numpy_loss(s, a, 0.1) for s, a in zip(scores, assignments, strict=True)])
    assert float(loss) == pytest.approx(wanted, rel=1e-4)
    assert float(metrics["cluster_top1"]) == pytest.approx((scores[0][:, 0].argmax(1) == assignments[0]).mean())
    bank = np.asarray(state["bank"]).copy()
    bank[index] = z[:, :2]
    np.testing.assert_allclose(after["bank"], bank, atol=1e-6)
    for name in ("assignments", "prototypes"):
        np.testing.assert_array_equal(after[name], state[name])


@pytest.mark.fast
def test_more_clusters_than_images_are_refused():
    with pytest.raises(UserError, match="prototypes is 31, more than the 30 training images"):
        dataclasses.replace(METHOD, prototypes=31).init(jax.random.key(0), batch_of(0, np.arange(8)), INFO)


def test_without_clustering_it_collapses():
    """Gradient descent on fixed views: with one cluster for all images, embeddings become one."""
    params, _, state, _ = begun()
    batch = batch_of(4, np.arange(30))

    def replica(params, state):
        def update(params, _):
            def loss(params):
                value, (_, aux) = METHOD.loss(params, state, batch, rng=None, step=0, info=INFO)
                return dist.mean(value), dist.mean(flat(aux.metrics))

            (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), (value, metrics)

        return jax.lax.scan(update, params, length=300)[1]

    mesh = dist.make_mesh(jax.devices()[:1])
    fit = jax.jit(jax.shard_map(replica, mesh=mesh, in_specs=(P(), METHOD.specs()), out_specs=P()))
    healthy = 0.5 / METHOD.out**0.5
    losses, metrics = fit(params, state)
    assert losses[-1] < METHOD.chance(INFO) / 2 and metrics["cluster_top1"][-1] > 0.95
    assert metrics["projection_std"][-1] > healthy
    losses, metrics = fit(params, {**state, "assignments": jnp.zeros_like(state["assignments"])})
    assert losses[-1] < losses[0] and metrics["projection_std"][-1] < healthy / 5, metrics["projection_std"][-1]


def test_clusters_of_digits_are_many_and_mean_something():
    """Images themselves as embeddings: those of one cluster have one label far more often than chance."""
    train = tiny.run("deepcluster").train
    images, labels = train.images, train.labels
    method = dataclasses.replace(METHOD, out=64, prototypes=64)
    info = dataclasses.replace(INFO, num_examples=len(images))
    params, state = method.init(jax.random.key(0), batch_of(0, np.arange(8)), info)
    pixels = jnp.asarray(unit(images.reshape(-1, 1, 64).astype(np.float32)))
    options = {"rng": jax.random.key(0), "step": 0, "info": info, "embed": lambda fn: jnp.tile(pixels, (1, 2, 1))}
    for assignments in np.asarray(method.on_epoch(params, state, **options)["assignments"]):
        sizes = np.bincount(assignments, minlength=64)
        assert (sizes > 0).all() and sizes.max() < len(images) / 10
        same = assignments[:, None] == assignments
        np.fill_diagonal(same, False)
        assert (labels[:, None] == labels)[same].mean() > 0.7, (labels[:, None] == labels)[same].mean()  # chance: 0.1
