import itertools
import tracemalloc

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix, normalized_mutual_info_score

from ssl_jax.metrics import cluster
from ssl_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order], data.target[order]
    return x[:600], y[:600], x[600:900], y[600:900]


@pytest.fixture(scope="module")
def found(digits):
    return cluster.cluster(*digits, num_classes=10)


def test_agrees_with_scikit_learn(digits, found):
    train_x, train_y, test_x, test_y = digits
    train_x, test_x = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (train_x, test_x))
    model = KMeans(10, n_init=10, random_state=0).fit(train_x)
    answers = model.predict(test_x)
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(test_y, answers))
    classes = linear_sum_assignment(confusion_matrix(model.labels_, train_y), maximize=True)[1]
    assert found["accuracy"] == pytest.approx(np.mean(classes[answers] == test_y))
    # Greedy majority votes would give two clusters one class here, and another accuracy.
    majority = np.array([np.bincount(train_y[model.labels_ == k], minlength=10).argmax() for k in range(10)])
    assert len(set(majority)) < 10 and found["accuracy"] != pytest.approx(np.mean(majority[answers] == test_y))
    assert 0.6 < found["accuracy"] < 0.95


@pytest.mark.fast
def test_matching_is_the_best_of_all():
    rng = np.random.default_rng(0)
    clusters, labels = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    classes = cluster.matching(clusters, labels, 5)
    best = max((np.array(p)[clusters] == labels).sum() for p in itertools.permutations(range(5)))
    assert sorted(classes) == list(range(5))
    assert (classes[clusters] == labels).sum() == best


def test_test_labels_choose_nothing(digits, found):
    """Named by the test labels, clusters would be right for permuted classes too."""
    train_x, train_y, test_x, test_y = digits
    wrong = cluster.cluster(train_x, train_y, test_x, (test_y + 1) % 10, num_classes=10)
    assert wrong["accuracy"] < 0.3
    assert wrong["nmi"] == pytest.approx(found["nmi"])


@pytest.mark.fast
def test_only_what_k_means_is_fitted_to_is_copied(monkeypatch):
    x, y = np.random.default_rng(0).normal(size=(50_000, 20)).astype(np.float32), np.arange(50_000) % 3
    monkeypatch.setattr(cluster, "MAX_IMAGES", 300)
    tracemalloc.start()
    cluster.cluster(x, y, x[:100], y[:100], num_classes=3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * x.nbytes


def test_awkward_inputs():
    x, labels = np.eye(3)[np.arange(30) % 3], np.arange(30) % 3
    perfect = {"accuracy": 1.0, "nmi": 1.0}
    assert cluster.cluster(x, labels, x, labels, num_classes=3) == pytest.approx(perfect)
    few = np.where(np.arange(30) < 6, labels, -1)
    assert cluster.cluster(5 * x, few, x, few, num_classes=3) == pytest.approx(perfect)
    collapsed = cluster.cluster(np.ones((30, 4)), labels, np.ones((30, 4)), labels, num_classes=3)
    assert collapsed["accuracy"] == pytest.approx(1 / 3)
    assert collapsed["nmi"] == pytest.approx(0, abs=1e-9)
    for arguments in ((x[:2], labels[:2], x, labels), (x, labels, x, labels - 5)):
        with pytest.raises(UserError, match="at least 3"):
            cluster.cluster(*arguments, num_classes=3)
    with pytest.raises(UserError, match="finite"):
        cluster.cluster(x * np.nan, labels, x, labels, num_classes=3)
