"""JULE: the graph of neighbours, mergers against the authors' algorithm step by step, the loss, and its periods."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax.methods.pretext.jule import weighted_triplet_loss
from ssl_jax.methods.shared import agglomeration
from ssl_jax.methods.shared.embedding import Rows
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def points(groups, each, seed=0, spread=0.25):
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(groups, 6))
    x = np.repeat(centres, each, 0) + spread * draw.normal(size=(groups * each, 6))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.fast
def test_links_are_the_authors():
    """affinity.lua, image by image."""
    x = points(4, 6).astype(np.float64)
    found = agglomeration.links(x, 5).toarray()
    squared = ((x[:, None] - x) ** 2).sum(-1)
    np.fill_diagonal(squared, np.inf)
    nearest = np.argsort(squared, 1)[:, :5]
    sigma = np.mean(np.take_along_axis(squared, nearest, 1))
    for i, row in enumerate(found):
        wanted = np.zeros(len(x))
        wanted[nearest[i]] = np.exp(-squared[i, nearest[i]] / sigma)
        np.testing.assert_allclose(row, wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.fast
def test_the_first_clusters_follow_nearest_neighbours():
    x = np.array([[0.0], [1.0], [1.5], [10.0], [10.5], [30.0], [19.0]])
    found = agglomeration.first_clusters(x)
    # 0 and 2 lead to 1; 3 and 4 to each other, and so does 6; the nearest of 5 is 6.
    np.testing.assert_array_equal(found, [0, 0, 0, 1, 1, 1, 1])


def affinity(weights, a, b):
    """Eq. 3 for two lists of rows, as `compute_CAff` sums it."""
    there = sum(weights[m, a].sum() * weights[a, m].sum() for m in b)
    back = sum(weights[m, b].sum() * weights[b, m].sum() for m in a)
    return there / len(a) ** 2 + back / len(b) ** 2


def merged_step_by_step(x, clusters, count, local, share, target):
    """`agg_clustering.run` with every affinity computed anew after every merger, from its definition."""
    weights = agglomeration.links(x, count).toarray()
    members = [np.flatnonzero(clusters == k) for k in range(clusters.max() + 1)]

    def table():
        member = np.zeros((len(x), len(members)))
        for k, rows in enumerate(members):
            member[rows, k] = 1
        mass = member.T @ ((weights @ member) * (weights.T @ member)) / member.sum(0) ** 2
        found = mass + mass.T
        if len(members) < 25:
            assert found[1, 0] == pytest.approx(affinity(weights, members[1], members[0]))
        np.fill_diagonal(found, -1)
        return found

    def join(a, b):
        members[min(a, b)] = np.concatenate([members[a], members[b]])
        del members[max(a, b)]

    if len(members) > 20 * target:
        while (found := table().clip(0).sum(1)).min() == 0:
            a = int(np.argmin(found))
            means = np.stack([x[rows].mean(0) for rows in members])
            gaps = ((means - means[a]) ** 2).sum(1)
            gaps[a] = np.inf
            join(a, int(np.argmin(gaps)))
    for _ in range(min(int(np.ceil(share * len(members))), len(members) - target)):
        found = table()
        ordered = np.sort(found, 1)[:, ::-1][:, :local].clip(0)
        score = ordered[:, 0] + (ordered[:, :1] - ordered[:, 1:]).sum(1) / (local - 1) * (len(members) > 100)
        a = int(np.argmax(score))
        join(a, int(np.argmax(found[a])))
    labels = np.zeros(len(x), int)
    for k, rows in enumerate(members):
        labels[rows] = k
    return labels


def same_partition(a, b):
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(np.unique(a)) == len(np.unique(b))


@pytest.mark.parametrize(
    ("groups", "each", "share", "target"),
    [(5, 12, 0.9, 5), (5, 12, 0.3, 2), (60, 5, 0.2, 100)],
    ids=["to the number wanted", "a share", "many clusters, with margins"],
)
def test_mergers_are_the_authors(groups, each, share, target):
    x = points(groups, each, seed=groups)
    clusters = np.arange(len(x)) // 2  # pairs, so that there are sums to make
    options = {"count": 6, "local": 5, "share": share, "target": target}
    found = agglomeration.merged(x, clusters, **options)
    wanted = merged_step_by_step(x, clusters, **options)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.unique(found), np.arange(found.max() + 1))
    assert same_partition(found, wanted)
    many = len(np.unique(clusters))
    assert len(np.unique(found)) == many - min(int(np.ceil(share * many)), many - target)


@pytest.mark.fast
def test_groups_are_found():
    x = points(10, 30, spread=0.15)
    clusters = agglomeration.first_clusters(x)
    assert clusters.max() > 40
    options = {"count": 20, "local": 5, "share": 0.9, "target": 10}
    while clusters.max() >= 10:
        clusters = agglomeration.merged(x, clusters, **options)
    assert same_partition(clusters, np.repeat(np.arange(10), 30))


@pytest.mark.fast
def test_clusters_without_a_link_are_merged_by_their_means():
    """Two far groups have no links: merged as far as asked for all the same, the nearest ones first."""
    x = np.concatenate([np.arange(4.0)[:, None], 100 + np.arange(4.0)[:, None], 300 + np.arange(4.0)[:, None]])
    options = {"count": 3, "local": 5, "share": 1.0}
    three = agglomeration.merged(x, np.arange(12), target=3, **options)
    np.testing.assert_array_equal(three, np.repeat([0, 1, 2], 4))
    np.testing.assert_array_equal(agglomeration.merged(x, three, target=2, **options), np.repeat([0, 0, 1], 4))
    np.testing.assert_array_equal(agglomeration.merged(x, three, target=3, **options), three)


def numpy_loss(z, clusters, margin, weight):
    """Triplet by triplet."""
    pairs = []
    for i in range(len(z)):
        for j in range(len(z)):
            strangers = np.flatnonzero(clusters != clusters[i])
            if i != j and clusters[i] == clusters[j] and len(strangers):
                gaps = weight * np.sum((z[i] - z[j]) ** 2) - np.sum((z[i] - z[strangers]) ** 2, -1) + margin
                pairs.append(np.maximum(gaps, 0).mean())
    return np.mean(pairs) if pairs else 0.0


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_the_loss_is_that_of_all_triplets(devices):
    def loss(z, clusters):
        own = Rows(z, clusters, jax.lax.axis_index("data") * len(z) + jnp.arange(len(z)))
        return weighted_triplet_loss(own, margin=2.0, weight=1.5, axis_name="data")[0]

    tiny.assert_global_triplets(devices, loss, lambda z, clusters: numpy_loss(z, clusters, 2.0, 1.5))


@pytest.mark.fast
def test_the_gradient_is_that_of_the_loss():
    """By differences; the authors' GPU code has another for the positive and the negative."""
    draw = np.random.default_rng(1)
    z, clusters, direction = draw.normal(size=(9, 4)), draw.integers(0, 3, 9), draw.normal(size=(9, 4))

    def loss(z):
        rows = Rows(z, jnp.asarray(clusters), jnp.arange(9))
        return weighted_triplet_loss(rows, margin=0.2, weight=1.0)[0]

    with jax.enable_x64(True):
        value, grad = jax.value_and_grad(loss)(jnp.asarray(z))
    assert float(value) == pytest.approx(numpy_loss(z, clusters, 0.2, 1.0), rel=1e-9)
    there, here = (numpy_loss(z + h * direction, clusters, 0.2, 1.0) for h in (1e-6, -1e-6))
    assert np.sum(np.asarray(grad) * direction) == pytest.approx((there - here) / 2e-6, rel=1e-6)
    alone = Rows(jnp.asarray(z, jnp.float32), jnp.arange(9), jnp.arange(9))
    assert float(weighted_triplet_loss(alone, margin=0.2, weight=1.0)[0]) == 0


def test_clusters_are_merged_at_the_end_of_each_period():
    run, _, _ = tiny.compiled("jule")
    method = dataclasses.replace(run.method, period=2)
    info = dataclasses.replace(run.info, steps_per_epoch=5)
    ts = tiny.first_state(run)
    first = ts.state["cluster"]
    assert int(ts.state["count"]) == len(np.unique(first)) > 100
    # Nearest neighbours by their pixels are nearly always of one class.
    labels = np.asarray(run.train.labels)
    purity = sum(np.bincount(labels[np.asarray(first) == k]).max() for k in range(int(ts.state["count"]))) / len(labels)
    assert purity > 0.9
    calls = []

    def embed(fn, views):
        calls.append(fn)
        assert views == {"view": method.eval_view(1.0)}
        flat = run.train.images.reshape(info.num_examples, -1).astype(np.float32)
        return jnp.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True))

    def begun(state, epoch):
        return method.on_epoch(ts.params, state, rng=jax.random.key(0), step=5 * epoch, info=info, embed=embed)

    assert begun(ts.state, 1) is ts.state and not calls
    state, counts = ts.state, [int(ts.state["count"])]
    for epoch in (2, 4, 6):
        new = begun(state, epoch)
        counts.append(int(new["count"]))
        old = np.asarray(state["cluster"])
        # Clusters are merged, never split.
        assert all(len(np.unique(np.asarray(new["cluster"])[old == k])) == 1 for k in np.unique(old))
        state = new
    assert counts[1] == counts[0] - int(np.ceil(0.9 * counts[0])) or counts[1] < counts[0] / 9
    assert counts[-1] == 10 and len(calls) == counts.index(10)
    assert begun(state, 8) is state
    (shown,) = method.pictures(ts.params, state, tiny.batch_of(run, 8), rng=None)
    tiny.assert_picture(shown)
    assert shown.captions[3][0] == f"cluster {int(state['cluster'][3])}"
    # An image is not its own neighbour.
    assert all(np.any(one != other) for one, other in shown.images)


@pytest.mark.fast
def test_what_it_cannot_cluster_is_refused():
    run = tiny.run("jule")
    with pytest.raises(UserError, match=r"set config\.method\.clusters"):
        run.method.init(jax.random.key(0), {}, dataclasses.replace(run.info, num_classes=0))
    with pytest.raises(UserError, match="all 200000 training images"):
        run.method.init(jax.random.key(0), {}, dataclasses.replace(run.info, num_examples=200_000))
