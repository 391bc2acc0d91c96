import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from ssl_jax.metrics.retrieval import retrieval
from ssl_jax.runtime.errors import UserError


def random_features(n=60, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return rng.normal(size=(n, 8)) + np.eye(classes, 8)[labels], labels


def digits():
    data = load_digits()
    return data.data[:400], data.target[:400]


@pytest.mark.parametrize("make", [random_features, digits])
def test_agrees_with_scikit_learn(make):
    """scikit-learn's average precision, query by query; neighbours by a plain sort."""
    x, labels = make()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    averages, recalls, precisions, at_r = [], [], [], []
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        scores, relevant = (unit @ unit[i])[others], (labels == labels[i])[others]
        averages.append(average_precision_score(relevant, scores))
        ranked = relevant[np.argsort(-scores)]
        r = relevant.sum()
        hits = [ranked[: i + 1].mean() for i in range(r) if ranked[i]]
        at_r.append((sum(hits) / r, ranked[:r].mean()))
        first = ranked[:5]
        recalls.append(first.any())
        precisions.append(first.mean())
    found = retrieval(x, labels)
    assert found["map"] == pytest.approx(np.mean(averages), abs=1e-6)
    np.testing.assert_allclose([found["map@r"], found["r_precision"]], np.mean(at_r, 0), rtol=1e-6)
    assert found["recall@5"] == pytest.approx(np.mean(recalls))
    assert found["precision@5"] == pytest.approx(np.mean(precisions))


@pytest.mark.fast
def test_a_ranking_by_hand():
    """The query finds [same, other, same]: average precision 5/6 (methods.md 7.7), not the trapezoid's 0.79."""
    angles = np.array([0.0, 0.1, 0.2, 0.3])
    x = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = retrieval(x, [0, 0, 1, 0], ks=(1, 2, 3), max_queries=1)
    assert found["map"] == pytest.approx(5 / 6)
    assert found == pytest.approx(
        {
            "map": 5 / 6,
            "map@r": 1 / 2,
            "r_precision": 1 / 2,
            "recall@1": 1,
            "recall@2": 1,
            "recall@3": 1,
            "precision@1": 1,
            "precision@2": 0.5,
        }
        | {"precision@3": 2 / 3}
    )


@pytest.mark.fast
def test_perfect_and_random_features():
    labels = np.repeat(np.arange(10), 20)
    assert retrieval(np.eye(10)[labels], labels) == {
        **{"map": 1, "map@r": 1, "r_precision": 1, "recall@1": 1, "recall@5": 1, "recall@10": 1},
        **{"precision@1": 1, "precision@5": 1, "precision@10": 1},
    }
    noise = retrieval(np.random.default_rng(0).normal(size=(200, 16)), labels)
    assert noise["precision@10"] == pytest.approx(19 / 199, abs=0.03)


@pytest.mark.fast
def test_awkward_inputs():
    x, labels = random_features()
    plain = retrieval(x, labels)
    junk = np.full((5, 8), 1e3)
    assert retrieval(np.vstack([junk, 7 * x]), np.append([-1] * 5, labels)) == pytest.approx(plain)
    # Whoever is the only one of its class asks nothing, but is in the gallery.
    alone = retrieval(np.vstack([x, [[5.0] + [0] * 7]]), np.append(labels, 7))
    assert alone["map"] < plain["map"]
    assert retrieval(np.ones((4, 2)), [0, 0, 1, 1], ks=(1, 10)).keys() == {
        "map",
        "map@r",
        "r_precision",
        "recall@1",
        "precision@1",
    }
    assert np.isfinite(retrieval(np.zeros((4, 2)), [0, 0, 1, 1])["map"])


@pytest.mark.fast
@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (np.ones((3, 2)), [0, 1], "shapes"),
        (np.full((2, 2), np.nan), [0, 0], "finite"),
        (np.ones((2, 2)), [0, 1], "class of two"),
    ],
)
def test_mistakes_are_explained(x, labels, message):
    with pytest.raises(UserError, match=message):
        retrieval(x, labels)
