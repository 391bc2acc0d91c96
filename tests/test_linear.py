import tracemalloc

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ssl_jax.metrics import linear
from ssl_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order], data.target[order]
    return x[:1300], y[:1300], x[1300:], y[1300:]


def blobs(n=120, d=6, classes=3, seed=0, distance=10.0):
    """Well separated clusters."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return distance * np.eye(classes, d)[labels] + rng.normal(size=(n, d)), labels


def test_is_as_good_as_logistic_regression(digits):
    train_x, train_y, test_x, test_y = digits
    scaler = StandardScaler().fit(train_x)
    other = LogisticRegression(max_iter=1000).fit(scaler.transform(train_x), train_y)
    result = linear.probe(*digits, num_classes=10)
    assert result["top1"] == pytest.approx(other.score(scaler.transform(test_x), test_y), abs=0.015)
    assert result["held_out_top1"] > 0.9
    assert not result["at_edge"]


def test_repeats_exactly_and_depends_on_the_seed(digits):
    first = linear.probe(*digits, num_classes=10, epochs=5)
    assert first == linear.probe(*digits, num_classes=10, epochs=5)
    assert first != linear.probe(*digits, num_classes=10, epochs=5, seed=1)


def test_permuted_labels_give_chance(digits):
    train_x, train_y, test_x, test_y = digits
    permuted = np.random.default_rng(0).permutation(train_y)
    result = linear.probe(train_x, permuted, test_x, test_y, num_classes=10, epochs=5)
    # Standard error of chance on 497 test images: 0.0135.
    assert result["top1"] == pytest.approx(0.1, abs=0.05)


def test_test_labels_choose_nothing(digits):
    train_x, train_y, test_x, test_y = digits
    honest = linear.probe(*digits, num_classes=10, epochs=5)
    wrong = linear.probe(train_x, train_y, test_x, (test_y + 1) % 10, num_classes=10, epochs=5)
    assert wrong["top1"] < 0.1 < honest["top1"]
    assert {**wrong, "top1": 0} == {**honest, "top1": 0}


@pytest.mark.fast
def test_separable_classes_are_separated():
    result = linear.probe(*blobs(), *blobs(seed=1), num_classes=3, epochs=5)
    assert (result["top1"], result["held_out_top1"]) == (1, 1)


@pytest.mark.fast
def test_scale_and_offset_of_the_features_do_not_matter():
    train_x, train_y = blobs(distance=3)
    test_x, test_y = blobs(seed=1, distance=3)
    result = linear.probe(train_x, train_y, test_x, test_y, num_classes=3, epochs=5)
    other = linear.probe(1e4 * train_x + 7, train_y, 1e4 * test_x + 7, test_y, num_classes=3, epochs=5)
    assert result["top1"] == pytest.approx(other["top1"], abs=0.01)
    assert result["learning_rate"] == other["learning_rate"]


@pytest.mark.fast
def test_a_dead_channel_is_harmless():
    train_x, train_y = blobs(d=5)
    dead = 1e-8 * np.random.default_rng(1).normal(size=(len(train_x), 1))
    # In the test set the channel is alive: standardised by its training spread, it would drown the others.
    test_x, test_y = blobs(d=5, seed=1)
    alive = np.random.default_rng(0).normal(size=dead.shape)
    result = linear.probe(
        np.hstack([train_x, dead]), train_y, np.hstack([test_x, alive]), test_y, num_classes=3, epochs=5
    )
    assert result["top1"] == 1


@pytest.mark.fast
def test_features_are_copied_once_at_most(monkeypatch):
    """Those of a large data set fill the memory: only what is standardised is as large again."""
    x, y = np.random.default_rng(0).normal(size=(50_000, 20)).astype(np.float32), np.arange(50_000) % 3
    assert linear.labelled("training", x, y, 3)[0] is x
    monkeypatch.setattr(linear, "_ROWS", 1000)
    tracemalloc.start()
    found, _ = linear.standardise(x, x[:10])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * x.nbytes
    np.testing.assert_allclose(found, StandardScaler().fit_transform(x), rtol=1e-4, atol=1e-5)


@pytest.mark.fast
def test_rows_without_a_label_are_dropped():
    train_x, train_y = blobs(distance=2)
    test_x, test_y = blobs(seed=1, distance=2)
    plain = linear.probe(train_x, train_y, test_x, test_y, num_classes=3, epochs=5)
    junk = np.full((5, 6), 1e3)
    padded = linear.probe(
        np.vstack([junk, train_x]),
        np.append([-1] * 5, train_y),
        np.vstack([test_x, junk]),
        np.append(test_y, [-1] * 5),
        num_classes=3,
        epochs=5,
    )
    assert padded == plain


@pytest.mark.fast
def test_training_is_nesterov_with_a_cosine():
    """One batch is the whole set, so that the written-out recipe sees the same gradients."""
    x, y = blobs(n=30, distance=2)
    epochs, rates = 7, [0.1, 2.0]
    fitted = linear._fit(x, y, np.array(rates), linear.jax.random.key(0), num_classes=3, epochs=epochs, batch_size=30)
    for i, rate in enumerate(rates):
        head, velocity = np.zeros((7, 3)), np.zeros((7, 3))
        rows = np.hstack([x, np.ones((30, 1))])
        for t in range(epochs):
            p = np.exp(rows @ head)
            grad = rows.T @ (p / p.sum(1, keepdims=True) - np.eye(3)[y]) / 30
            velocity = 0.9 * velocity + grad
            scaled = rate * 30 / 256 * 0.5 * (1 + np.cos(np.pi * t / epochs))
            head -= scaled * (grad + 0.9 * velocity)
        np.testing.assert_allclose(np.vstack([fitted[0][i], fitted[1][i]]), head, rtol=1e-4, atol=1e-6)


@pytest.mark.fast
def test_each_epoch_drops_the_last_partial_batch():
    x, y = blobs(n=7)
    key = linear.jax.random.key(0)
    _, bias = linear._fit(x, y, np.ones(1), key, num_classes=3, epochs=1, batch_size=4)
    # A single step from zero at rate 4 / 256: the bias tells how many rows of each class were in it.
    rows = 4 * (bias[0] / (1.9 * 4 / 256) + 1 / 3)
    np.testing.assert_allclose(rows, np.round(rows), atol=1e-4)
    assert rows.sum() == pytest.approx(4, abs=1e-4)


@pytest.mark.fast
def test_held_out_part_is_stratified():
    labels = np.repeat([0, 1, 2, 3], [100, 20, 2, 1])
    mask = linear.held_out_part(labels, seed=0)
    assert np.bincount(labels[mask], minlength=4).tolist() == [10, 2, 1, 0]
    assert (mask != linear.held_out_part(labels, seed=1)).any()


def test_edge_of_the_grid_is_reported(digits):
    # 1e-60 is zero in float32 and learns nothing, so the last rate wins.
    last = linear.probe(*digits, num_classes=10, epochs=5, learning_rates=[0.1, 1e-60])
    assert (last["learning_rate"], last["at_edge"]) == (0.1, True)
    alone = linear.probe(*digits, num_classes=10, epochs=5, learning_rates=[0.1])
    assert (alone["learning_rate"], alone["at_edge"]) == (0.1, False)


@pytest.mark.fast
def test_ties_go_to_the_middle_of_the_grid():
    assert linear.choose(np.array([0.5, 0.7, 0.9])) == 2
    assert linear.choose(np.array([0.9, 0.9, 0.9, 0.8, 0.9])) == 2


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_y": np.full(120, -1)}, "training set has no labelled row"),
        ({"test_y": np.full(120, -1)}, "test set has no labelled row"),
        ({"num_classes": 2}, "num_classes"),
        ({"test_x": np.zeros((120, 5))}, "channels"),
        ({"train_x": np.zeros((120, 2, 3))}, "flatten"),
        ({"train_x": np.full((120, 6), np.inf)}, "NaN"),
        ({"epochs": 0}, "positive"),
        ({"learning_rates": ()}, "at least one rate"),
        ({"train_x": np.eye(3, 6), "train_y": np.arange(3)}, "no class has two"),
    ],
)
def test_mistakes_are_explained(change, message):
    right = dict(zip(("train_x", "train_y"), blobs(), strict=True))
    right |= dict(zip(("test_x", "test_y"), blobs(seed=1), strict=True)) | {"num_classes": 3}
    with pytest.raises(UserError, match=message):
        linear.probe(**{**right, **change})
