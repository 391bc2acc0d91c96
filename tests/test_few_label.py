import json
import tracemalloc

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ssl_jax.evals import few_label as few_label_evaluation
from ssl_jax.metrics import few_label as module
from ssl_jax.metrics.few_label import few_label, pca, table
from ssl_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.images[order], data.target[order]
    return x[:500], y[:500], x[500:900], y[500:900]


def blobs(n=60, d=5, classes=3, seed=0, distance=20.0):
    """Well separated clusters."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return distance * np.eye(classes, d)[labels] + rng.normal(size=(n, d)), labels


@pytest.mark.fast
def test_separable_classes_need_one_label():
    (train_x, train_y), (test_x, test_y) = blobs(), blobs(seed=1)
    noise = np.random.default_rng(2).normal(size=(2, 60, 5))
    results = few_label({"good": (train_x, test_x), "noise": tuple(noise)}, train_y, test_y)
    assert list(results) == ["1", "5", "10", "all"]
    for row in results.values():
        assert (row["good"]["mean"], row["good"]["std"]) == (1, 0)
        assert row["noise"]["mean"] == pytest.approx(1 / 3, abs=0.2)
    assert [results[c]["good"]["images"] for c in results] == [3, 15, 30, 60]
    assert [results[c]["good"]["fits"] for c in results] == [5, 5, 5, 1]


def test_digits(digits):
    train_x, train_y, test_x, test_y = digits
    results = few_label(
        {"pixels": (train_x, test_x), "all components": pca(train_x, test_x), "few": pca(train_x, test_x, 2)},
        train_y,
        test_y,
        draws=2,
    )
    for count in results:
        # All principal components are a rotation of the pixels; that must not change what they are worth.
        assert results[count]["all components"]["mean"] == pytest.approx(results[count]["pixels"]["mean"], abs=0.01)
    pixels = [results[count]["pixels"]["mean"] for count in ("1", "5", "10", "all")]
    assert pixels == sorted(pixels)
    assert 0.5 < pixels[0] < 0.75
    other = LogisticRegression(max_iter=1000).fit(train_x.reshape(500, -1) / 16, train_y)
    assert pixels[-1] == pytest.approx(other.score(test_x.reshape(400, -1) / 16, test_y), abs=0.015)
    assert results["all"]["few"]["mean"] < 0.7


@pytest.mark.fast
def test_same_draws_for_each_representation():
    (train_x, train_y), (test_x, test_y) = blobs(distance=2), blobs(seed=1, distance=2)
    same = few_label({"a": (train_x, test_x), "b": (train_x, test_x)}, train_y, test_y, counts=(1, 5))
    assert same["1"]["a"]["std"] > 0
    for row in same.values():
        assert row["a"] == row["b"]
    # ... whatever else is measured beside it.
    alone = few_label({"b": (train_x, test_x)}, train_y, test_y, counts=(5,))
    assert alone["5"]["b"] == same["5"]["b"]


@pytest.mark.fast
def test_repeats_exactly_and_depends_on_the_seed():
    (train_x, train_y), (test_x, test_y) = blobs(distance=2), blobs(seed=1, distance=2)
    first, again, other = (
        few_label({"a": (train_x, test_x)}, train_y, test_y, counts=(1,), seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.fast
def test_draws_are_balanced_and_nested():
    labels = np.array([0] * 50 + [1] * 20 + [-1] * 30)
    few, more = module._draw(labels, 2, seed=0, draw=3), module._draw(labels, 5, seed=0, draw=3)
    assert np.bincount(labels[more]).tolist() == [5, 5]
    assert len(set(more)) == 10
    assert set(few) < set(more)
    assert set(few) != set(module._draw(labels, 2, seed=0, draw=4))


@pytest.mark.fast
def test_mean_and_spread_are_over_the_draws():
    (train_x, train_y), (test_x, test_y) = blobs(distance=2), blobs(seed=1, distance=2)
    centred = train_x - train_x.mean(0)
    scale = np.sqrt((centred**2).sum(1).mean())
    accuracies = []
    for draw in range(4):
        rows = module._draw(train_y, 2, seed=7, draw=draw)
        model = LogisticRegression(C=module._C).fit(centred[rows] / scale, train_y[rows])
        accuracies.append(model.score((test_x - train_x.mean(0)) / scale, test_y))
    cell = few_label({"a": (train_x, test_x)}, train_y, test_y, counts=(2,), draws=4, seed=7)["2"]["a"]
    assert cell["mean"] == pytest.approx(np.mean(accuracies), abs=0.02)
    assert cell["std"] == pytest.approx(np.std(accuracies, ddof=1), abs=0.02)


@pytest.mark.fast
def test_scale_of_a_representation_does_not_matter():
    (train_x, train_y), (test_x, test_y) = blobs(distance=2), blobs(seed=1, distance=2)
    row = few_label({"a": (train_x, test_x), "b": (1024 * train_x, 1024 * test_x)}, train_y, test_y, counts=(5,))["5"]
    assert row["a"]["mean"] == pytest.approx(row["b"]["mean"], abs=0.01)


@pytest.mark.fast
def test_unlabelled_rows_are_never_drawn_but_set_the_scale():
    (train_x, train_y), (test_x, test_y) = blobs(), blobs(seed=1)
    hidden = np.where(np.arange(60) < 30, train_y, -1)
    results = few_label({"a": (train_x, test_x)}, hidden, np.where(np.arange(60) < 50, test_y, -1))
    assert results["all"]["a"]["images"] == 30
    assert results["all"]["a"]["mean"] == 1
    scaled = module.scaling("a", train_x, test_x, 60, 60)
    assert np.square(scaled(train_x)).sum(1).mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.fast
def test_only_rows_that_are_fitted_are_copied(monkeypatch):
    x, y = np.random.default_rng(0).normal(size=(50_000, 20)).astype(np.float32), np.arange(50_000) % 3
    monkeypatch.setattr(module, "_ROWS", 1000)
    tracemalloc.start()
    few_label({"a": (x, x[:100])}, y, y[:100], counts=(1, 5), draws=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.6 * x.nbytes


@pytest.mark.fast
def test_collapsed_features_are_chance():
    _, labels = blobs()
    row = few_label({"point": (np.ones((60, 5)), np.ones((60, 5)))}, labels, labels, counts=(5,))["5"]
    assert row["point"]["mean"] == pytest.approx(1 / 3)


@pytest.mark.fast
def test_counts_that_a_class_cannot_fill_are_skipped():
    (train_x, train_y), (test_x, test_y) = blobs(), blobs(seed=1)
    results = few_label({"a": (train_x, test_x)}, train_y, test_y, counts=(1, 21))
    assert results["21"] == {"skipped": "class 0 has only 20 labelled training images"}
    assert "a" in results["1"]
    assert "21: skipped, class 0 has only 20" in table(results)
    assert "skipped" in table({"21": results["21"]})


@pytest.mark.fast
def test_fits_that_do_not_converge_are_counted(monkeypatch):
    monkeypatch.setattr(module, "MAX_ITERATIONS", 2)
    (train_x, train_y), (test_x, test_y) = blobs(distance=2), blobs(seed=1, distance=2)
    results = few_label({"a": (train_x, test_x)}, train_y, test_y, counts=(5,), draws=3)
    assert results["5"]["a"]["unconverged"] == 3
    assert "*" in table(results)
    assert "within 2 iterations" in table(results)


@pytest.mark.fast
def test_all_is_limited_and_says_so(monkeypatch):
    monkeypatch.setattr(module, "MAX_IMAGES", 40)
    (train_x, train_y), (test_x, test_y) = blobs(), blobs(seed=1)
    results = few_label({"a": (train_x, test_x)}, train_y, test_y, counts=(None,))
    assert results["all"]["a"]["images"] == 40
    assert "all (40 images)" in table(results)


@pytest.mark.fast
def test_principal_components(digits):
    train_x, _, test_x, _ = digits
    train, test = pca(train_x, test_x, 10)
    assert (train.shape, test.shape, train.dtype) == ((500, 10), (400, 10), np.float32)
    # Not whitened: variances fall; and they come from the training inputs alone.
    assert (np.diff(train.var(0)) < 0).all()
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-4)
    np.testing.assert_array_equal(train, pca(train_x, test_x[:100], 10)[0])
    assert pca(train_x[:5], test_x)[0].shape == (5, 5)


@pytest.mark.fast
def test_table():
    cell = {"mean": 0.5, "std": 0.0125, "fits": 5, "unconverged": 0, "images": 10}
    single = {"mean": 0.98765, "std": 0.0, "fits": 1, "unconverged": 0, "images": 1400}
    results = {
        "1": {"pixels": cell, "pretrained": {**cell, "mean": 1.0, "unconverged": 1}},
        "all": {"pixels": single, "pretrained": single},
    }
    assert table(results).split("\n") == [
        "labels per class  | pixels     | pretrained",
        "------------------|------------|-------------",
        "1                 | 50.0 ± 1.2 | 100.0 ± 1.2*",
        "all (1400 images) | 98.8       | 98.8",
        "* not every fit converged within 300 iterations",
    ]


@pytest.mark.fast
def test_results_are_json():
    (train_x, train_y), (test_x, test_y) = blobs(), blobs(seed=1)
    results = few_label({"a": (train_x, test_x)}, train_y, test_y, counts=(1, 99, None), draws=2)
    assert json.loads(json.dumps(results)) == results


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_y": np.zeros(60, int)}, "two classes"),
        ({"test_y": np.full(60, -1)}, "labelled test images"),
        ({"counts": (0,)}, "1 or more"),
        ({"draws": 0}, "1 or more"),
        ({"representations": {"odd": (np.zeros((9, 2)), np.zeros((60, 2)))}}, "'odd' has shapes"),
        ({"representations": {"odd": (np.zeros((60, 2)), np.zeros((60, 3)))}}, "one width"),
        ({"representations": {"bad": (np.full((60, 2), np.nan), np.zeros((60, 2)))}}, "'bad' has NaN"),
    ],
)
def test_mistakes_are_explained(change, message):
    (train_x, train_y), (test_x, test_y) = blobs(), blobs(seed=1)
    right = {"representations": {"a": (train_x, test_x)}, "train_y": train_y, "test_y": test_y}
    with pytest.raises(UserError, match=message):
        few_label(**{**right, **change})


def test_the_numbers_of_labels_are_an_option():
    assert few_label_evaluation._counts("100, 1,10") == [1, 10, 100]
    with pytest.raises(UserError, match=r"config.eval.few_labels is 'ten': write numbers"):
        few_label_evaluation._counts("ten")
