import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ssl_jax.metrics import logistic
from ssl_jax.metrics.linear import held_out_part
from ssl_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order][:900], data.target[order][:900]
    return x[:600], y[:600], x[600:], y[600:]


@pytest.fixture(scope="module")
def found(digits):
    return logistic.probe(*digits, num_classes=10)


def test_is_scikit_learns_on_the_chosen_penalty(digits, found):
    """To the last prediction, and the choice is the best of candidates that are fitted one by one from zero."""
    train_x, train_y, test_x, test_y = digits
    scaler = StandardScaler().fit(train_x)
    train_x, test_x = scaler.transform(train_x).astype(np.float32), scaler.transform(test_x).astype(np.float32)
    wanted = LogisticRegression(C=found["c"], max_iter=1000).fit(train_x, train_y).score(test_x, test_y)
    assert found["top1"] == wanted
    held_out = held_out_part(train_y, 0)
    scores = [
        LogisticRegression(C=c, max_iter=1000)
        .fit(train_x[~held_out], train_y[~held_out])
        .score(train_x[held_out], train_y[held_out])
        for c in logistic.CS
    ]
    assert found["held_out_top1"] == pytest.approx(max(scores), abs=1 / held_out.sum())
    assert scores[logistic.CS.index(found["c"])] == pytest.approx(max(scores), abs=1 / held_out.sum())
    assert found["converged"] and not found["at_edge"]


def test_test_labels_choose_nothing(digits, found):
    train_x, train_y, test_x, test_y = digits
    wrong = logistic.probe(train_x, train_y, test_x, (test_y + 1) % 10, num_classes=10)
    assert wrong["top1"] < 0.1 < found["top1"]
    assert {**wrong, "top1": 0} == {**found, "top1": 0}


def test_rows_without_a_label_are_dropped(digits, found):
    train_x, train_y, test_x, test_y = digits
    junk = np.full((5, 64), 1e3)
    padded = logistic.probe(
        np.vstack([junk, train_x]),
        np.append([-1] * 5, train_y),
        np.vstack([test_x, junk]),
        np.append(test_y, [-1] * 5),
        num_classes=10,
    )
    assert padded == found


def test_permuted_labels_want_the_strongest_penalty_or_give_chance(digits):
    train_x, train_y, test_x, test_y = digits
    permuted = np.random.default_rng(0).permutation(train_y)
    result = logistic.probe(train_x, permuted, test_x, test_y, num_classes=10, cs=(1e-4, 1.0))
    # Standard error of chance on 300 test images: 0.017.
    assert result["top1"] == pytest.approx(0.1, abs=0.07)


@pytest.mark.fast
def test_only_a_fit_that_did_not_converge_counts_as_such():
    class Warns(LogisticRegression):
        def fit(self, x, y):
            warnings.warn("something else", FutureWarning, stacklevel=1)
            return super().fit(x, y)

    x, y = np.eye(30, 6), np.arange(30) % 3
    with pytest.warns(FutureWarning, match="something else"):
        assert logistic.fit(Warns(), x, y)
    with pytest.warns(FutureWarning):
        assert not logistic.fit(Warns(max_iter=1), x, y)
    assert not logistic.fit(LogisticRegression(max_iter=1), x, y)  # and is not warned of


@pytest.mark.fast
@pytest.mark.parametrize(("classes", "threads"), [(2, 1), (3, 1), (4, None)])
def test_products_grow_with_the_classes(monkeypatch, classes, threads):
    asked, right = [], logistic.threadpool_limits

    def limits(count, user_api):
        asked.append(count)
        return right(count, user_api=user_api)

    monkeypatch.setattr(logistic, "threadpool_limits", limits)
    monkeypatch.setattr(logistic, "_ONE_THREAD", 3 * 60 * 5)
    logistic.fit(LogisticRegression(), np.eye(60, 5), np.arange(60) % classes)
    assert asked == [threads]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_y": np.full(30, -1)}, "training set has no labelled row"),
        ({"train_y": np.zeros(30, int)}, "two classes"),
        ({"test_x": np.zeros((30, 5))}, "channels"),
        ({"train_x": np.full((30, 6), np.nan)}, "NaN"),
        ({"train_x": np.eye(3, 6), "train_y": np.arange(3)}, "no class has two"),
    ],
)
def test_mistakes_are_explained(change, message):
    right = {
        "train_x": np.eye(30, 6),
        "train_y": np.arange(30) % 3,
        "test_x": np.eye(30, 6),
        "test_y": np.arange(30) % 3,
    }
    with pytest.raises(UserError, match=message):
        logistic.probe(**{**right, **change}, num_classes=3)
