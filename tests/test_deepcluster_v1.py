"""DeepCluster: whitening, Euclidean k-means that splits clusters, weights, edges, and a classifier that begins anew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate
import tiny

from ssl_jax.methods.joint import deepcluster_v1
from ssl_jax.methods.joint.deepcluster_v1 import edges, weights_of, whitened
from ssl_jax.methods.shared.kmeans import SPLIT, kmeans, split
from ssl_jax.methods.shared.memory_bank import BLOCK
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.fast
def test_whitening_has_the_reference_values(golden):
    with np.load(golden.parent / "golden_wave2" / "deepcluster_whitening.npz") as file, jax.enable_x64(True):
        x, width = file["x"], len(file["eigenvalues"])
        padded = jnp.asarray(np.concatenate([x, np.full((5, x.shape[1]), 7.0)]))
        found = np.asarray(whitened(padded, count=len(x), width=width))
        np.testing.assert_allclose(found[:30] @ found[:30].T, file["gram_after_whitening_l2"], atol=1e-7)
        np.testing.assert_array_equal(found[30:], 0)


@pytest.mark.fast
def test_whitening_leaves_out_directions_without_variance():
    """Of rows in a plane there are two directions, whatever number is asked for."""
    draw = np.random.default_rng(0)
    x = (draw.normal(size=(50, 2)) @ draw.normal(size=(2, 6))).astype(np.float32)
    found = np.asarray(whitened(jnp.asarray(x), count=50, width=5))
    assert np.isfinite(found).all() and np.linalg.matrix_rank(found, tol=1e-3) == 2
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def numpy_kmeans(x, start, iterations):
    """Row by row; clusters without rows take half of the largest, one after the other."""
    centroids = x[start]
    for _ in range(iterations):
        nearest = np.array([np.argmin(((row - centroids) ** 2).sum(1)) for row in x])
        counts = np.bincount(nearest, minlength=len(centroids))
        centroids = np.stack(
            [x[nearest == k].mean(0) if counts[k] else np.zeros(x.shape[1]) for k in range(len(counts))]
        )
        for k in range(len(counts)):
            if not counts[k]:
                largest = np.argmax(counts)
                shift = np.array([SPLIT if i % 2 == 0 else -SPLIT for i in range(x.shape[1])])
                centroids[k], centroids[largest] = centroids[largest] * (1 + shift), centroids[largest] * (1 - shift)
                counts[k] = counts[largest] // 2
                counts[largest] -= counts[k]
    return centroids, np.array([np.argmin(((row - centroids) ** 2).sum(1)) for row in x])


@pytest.mark.parametrize("twice", [False, True], ids=["plain", "centroids that fall together"])
def test_kmeans_agrees_with_numpy(twice):
    count, clusters = 400, 12
    x = np.random.default_rng(0).normal(size=(count, 5))
    key = jax.random.key(1)
    with jax.enable_x64(True):
        start = np.asarray(jax.random.permutation(key, count)[:clusters])
        if twice:
            x[start[6:]] = x[start[0]]  # six clusters begin empty, since ties are the first one's
        padded = jnp.asarray(np.concatenate([x, np.full((BLOCK - count, 5), 100.0)]))
        options = {"count": count, "clusters": clusters, "iterations": 6, "spherical": False}
        centroids, found = kmeans(padded, key, **options)
    wanted, assignments = numpy_kmeans(x, start, 6)
    np.testing.assert_allclose(centroids, wanted, atol=1e-9)
    np.testing.assert_array_equal(found, assignments)
    assert len(np.unique(found)) == clusters


@pytest.mark.fast
def test_empty_clusters_take_halves_of_the_largest():
    centroids = jnp.asarray([[0.0, 0.0], [1.0, 2.0], [9.0, 9.0], [5.0, 5.0]])
    found = np.asarray(split(centroids, jnp.asarray([0.0, 9.0, 3.0, 0.0])))
    shift, whole = SPLIT * np.array([1, -1]), np.array([1.0, 2.0])
    np.testing.assert_allclose(found[0], whole * (1 + shift), rtol=1e-6)
    np.testing.assert_array_equal(found[2], centroids[2])
    # Of 9 rows it kept 5, still the largest: it is split once more.
    np.testing.assert_allclose(found[1], whole * (1 - shift) * (1 - shift), rtol=1e-6)
    np.testing.assert_allclose(found[3], whole * (1 - shift) * (1 + shift), rtol=1e-6)
    np.testing.assert_array_equal(split(centroids, jnp.asarray([1.0, 9.0, 3.0, 2.0])), centroids)


@pytest.mark.fast
def test_clusters_count_alike():
    cluster = np.repeat([0, 2, 3], [50, 8, 2])
    found = np.asarray(weights_of(jnp.asarray([50, 0, 8, 2]), jnp.asarray(cluster)))
    assert found.mean() == pytest.approx(1)
    for k in (0, 2, 3):
        assert found[cluster == k].sum() == pytest.approx(20)


@pytest.mark.fast
def test_edges_are_the_authors_filters():
    images = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype(np.float32)
    found = np.asarray(edges(jnp.asarray(images)))
    filters = [np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]]), np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])]
    for image, own in zip(images.mean(-1), found, strict=True):
        for i, weights in enumerate(filters):
            np.testing.assert_allclose(own[..., i], correlate(image, weights, mode="constant"), atol=1e-5)


def test_clusters_and_classifier_are_made_anew_together():
    run, _, _ = tiny.compiled("deepcluster_v1")
    method = dataclasses.replace(run.method, reassign=2)
    info = dataclasses.replace(run.info, steps_per_epoch=5)
    ts = tiny.first_state(run)
    count = info.num_examples
    np.testing.assert_array_equal(np.bincount(ts.state["cluster"], minlength=method.clusters), ts.state["sizes"])
    assert len(np.unique(ts.state["cluster"])) > 0.9 * method.clusters
    draw = np.random.default_rng(0)
    calls = []

    def embed(fn, views):
        calls.append((fn, views))
        return jnp.asarray(draw.normal(size=(count, method.out)), jnp.float32)

    def begun(step, seed):
        return method.on_epoch(ts.params, ts.state, rng=jax.random.key(seed), step=step, info=info, embed=embed)

    assert begun(5, 1) is ts.state and not calls
    new = begun(10, 1)
    assert np.any(new["cluster"] != ts.state["cluster"]) and calls[0][1] == {"view": method.eval_view(1.0)}
    info = dataclasses.replace(info, total_steps=30)
    for step, last in ((0, False), (4, False), (9, True), (19, True), (29, False)):
        params, _ = method.after_update(ts.params, ts.state, jnp.asarray(step), info)
        moved = np.asarray(params["classifier"]["linear"]["kernel"])
        assert np.any(moved != np.asarray(ts.params["classifier"]["linear"]["kernel"])) == last
        assert moved.std() == pytest.approx(0.01, rel=0.05)
        tiny.assert_same(params["backbone"], ts.params["backbone"])
    (shown,) = method.pictures(ts.params, ts.state, tiny.batch_of(run, 8), rng=None)
    tiny.assert_picture(shown)
    assert shown.captions[3][0].startswith(f"cluster {int(ts.state['cluster'][3])}; ")


def test_features_do_not_depend_on_augmentation():
    """Whole images with running statistics: the clusters of an epoch are the same whatever views it has."""
    run, _, _ = tiny.compiled("deepcluster_v1")
    ts = tiny.first_state(run)
    method = run.method
    other = tiny.run("deepcluster_v1", **{"method.view.degrees": 90.0, "method.view.jitter": 0.0})
    np.testing.assert_array_equal(tiny.first_state(other).state["cluster"], ts.state["cluster"])
    edged = dataclasses.replace(method, sobel=True)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
    params, state = edged.init(jax.random.key(0), {"view": images}, run.info)
    assert params["backbone"]["stage1"]["kernel"].shape[2] == 2
    assert tiny.features(edged, params, state, images).shape[0] == 2


@pytest.mark.fast
def test_more_clusters_or_components_than_there_are_are_refused():
    run = tiny.run("deepcluster_v1")
    many = dataclasses.replace(run.method, clusters=run.info.num_examples + 1)
    with pytest.raises(UserError, match="more than the"):
        many.init(jax.random.key(0), {}, run.info)
    with pytest.raises(UserError, match=r"method\.pca is 65"):
        dataclasses.replace(run.method, pca=65).check(8, 8, 1)
    assert deepcluster_v1.DeepClusterV1(run.method.backbone).chance(run.info) == pytest.approx(np.log(10000))
