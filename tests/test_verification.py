"""Verification of pairs against reference values, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ssl_jax.metrics.verification import draw_pairs, verify
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.fast


def test_the_reference_values(golden):
    file = golden.parent / "golden_wave2" / "pair_verification_10fold.npz"
    if not file.is_file():
        pytest.skip("reference numbers are not on this machine")
    with np.load(file) as arrays:
        given = {name: arrays[name] for name in arrays}
    distance = np.square(given["e1"] - given["e2"]).sum(1)
    np.testing.assert_allclose(distance, given["squared_distance"], rtol=1e-9)
    folds = np.repeat(np.arange(10), 20)
    found = verify(distance, given["same"], folds)
    np.testing.assert_allclose(found.accuracy, given["fold_accuracy"], rtol=1e-12)
    np.testing.assert_allclose(found.threshold, given["fold_threshold"], rtol=1e-12)
    assert (found.accuracy.mean(), found.accuracy.std()) == pytest.approx((float(given["mean"]), float(given["std"])))
    assert found.auc == pytest.approx(float(given["auc"]))
    # Distances that are not squared have another place in the grid, and a threshold of all folds sees the answers.
    assert not np.array_equal(verify(np.sqrt(distance), given["same"], folds).threshold, found.threshold)
    assert verify(distance, given["same"], np.arange(200) // 100).accuracy.mean() != pytest.approx(given["mean"])


def test_val_at_far_by_hand():
    """In each fold 100 pairs of two classes at 1.00, 1.01, ...: a FAR of .05 is reached between 1.04 and 1.05."""
    other, own = 1 + np.arange(100) / 100, np.array([0.5, 1.03, 1.2, 1.9])
    distance, same = np.tile(np.concatenate([other, own]), 2), np.tile(np.arange(104) >= 100, 2)
    found = verify(distance, same, np.repeat([0, 1], 104), far=0.05)
    np.testing.assert_allclose(found.val, 0.5)
    np.testing.assert_allclose(found.far, 0.05, atol=0.011)
    # A rate that no threshold reaches accepts nothing.
    never = verify(np.where(same, distance, 4.0), same, np.repeat([0, 1], 104), far=0.05)
    np.testing.assert_array_equal([never.val, never.far], 0)
    assert found.auc == pytest.approx(roc_auc_score(same, -distance))


def test_pairs_share_no_class_between_folds():
    labels = np.append(np.repeat(np.arange(43), 7), [-1] * 9)
    pairs = draw_pairs(labels, pairs=25, seed=3)
    assert len(pairs.rows) == 10 * 2 * 25 and (labels[pairs.rows] >= 0).all()
    np.testing.assert_array_equal(labels[pairs.rows[:, 0]] == labels[pairs.rows[:, 1]], pairs.same)
    assert all(pairs.same[pairs.folds == fold].mean() == 0.5 for fold in range(10))
    of = [set(labels[pairs.rows[pairs.folds == fold]].flat) for fold in range(10)]
    assert sum(map(len, of)) == len(set.union(*of))
    assert (
        len({tuple(sorted(row)) for row in pairs.rows.tolist()}) == 500 and (pairs.rows[:, 0] != pairs.rows[:, 1]).all()
    )
    np.testing.assert_array_equal(draw_pairs(labels, pairs=25, seed=3).rows, pairs.rows)
    assert not np.array_equal(draw_pairs(labels, pairs=25, seed=4).rows, pairs.rows)
    assert len(draw_pairs(np.repeat(np.arange(20), 2)).rows) == 10 * 2 * 2  # no fold has more pairs of one class


def test_what_cannot_be_verified_is_refused():
    with pytest.raises(UserError, match="there are 19 classes of test images"):
        draw_pairs(np.repeat(np.arange(19), 5))
    with pytest.raises(UserError, match="a class of two test images"):
        draw_pairs(np.arange(20))
    with pytest.raises(UserError, match=r"not \(3,\), \(2,\) and \(3,\)"):
        verify(np.ones(3), [True, False], np.zeros(3))
    with pytest.raises(UserError, match="both kinds of pairs"):
        verify(np.ones(4), [True, False, True, True], [0, 0, 1, 1])
