import numpy as np
import pytest
from sklearn.datasets import load_digits

from ssl_jax.metrics import few_label, label_curve
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.fast


def test_shares_are_of_every_class_and_nested():
    labels = np.repeat([0, 1, 2, -1], [200, 60, 3, 40])
    rows = {p: label_curve.subset(labels, p, 0) for p in (1, 10, 50, 100)}
    assert [np.bincount(labels[r], minlength=3).tolist() for r in rows.values()] == [
        [2, 1, 1],
        [20, 6, 1],
        [100, 30, 2],
        [200, 60, 3],
    ]
    assert set(rows[1]) <= set(rows[10]) <= set(rows[50]) <= set(rows[100])
    assert set(rows[10]) != set(label_curve.subset(labels, 10, 1))


def test_the_curve_rises_to_the_few_label_tables_last_row():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order], data.target[order]
    curve = label_curve.label_curve(x[:400], y[:400], x[400:600], y[400:600], percents=(1, 10, 100))
    table = few_label.few_label({"x": (x[:400], x[400:600])}, y[:400], y[400:600], counts=(None,))
    assert curve[100][0] == pytest.approx(table["all"]["x"]["mean"], abs=0.006)  # the order of rows rounds
    assert curve[1] < curve[10] < curve[100]
    assert curve[10][1] > 0 and curve[100][1] is None


def test_a_share_of_too_many_images_is_no_point(monkeypatch):
    labels = np.repeat([0, 1, -1], [40, 60, 30])
    x = np.random.default_rng(0).normal(size=(130, 3))
    monkeypatch.setattr(label_curve, "MAX_IMAGES", 50)
    assert label_curve.sizes(labels, (1, 50, 51, 100)) == {1: 2, 50: 50}
    curve = label_curve.label_curve(x, labels, x, labels, percents=(10, 50, 100))
    assert set(curve) == {10, 50}


def test_mistakes_are_explained():
    x = np.eye(4)
    with pytest.raises(UserError, match="two classes"):
        label_curve.label_curve(x, [0, 0, 0, -1], x, [0, 0, 0, 0])
    with pytest.raises(UserError, match="labelled test"):
        label_curve.label_curve(x, [0, 1, 0, 1], x, [-1] * 4)
