import numpy as np
import pytest
from tiny import generator

from ssl_jax.metrics import health
from ssl_jax.runtime.errors import UserError


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.fast
def test_reference_numbers(golden):
    ref = np.load(golden / "rankme.npz")
    assert health.rankme(ref["embeddings"]) == pytest.approx(float(ref["rankme"]), rel=1e-7)
    ref = np.load(golden / "alignment_uniformity.npz")
    assert health.alignment(ref["x"], ref["y"]) == pytest.approx(float(ref["alignment"]), rel=1e-7)
    assert health.uniformity(ref["x"]) == pytest.approx(float(ref["uniformity"]), rel=1e-7)


@pytest.mark.fast
def test_values_of_the_specification():
    a, b = generator(4, 3, 0.1), generator(4, 3, 0.9)
    assert health.alignment(a, b) == pytest.approx(0.552111, abs=1e-6)
    assert health.uniformity(a) == pytest.approx(-1.512084, abs=1e-6)
    assert health.rankme(a) == pytest.approx(2.271255, abs=1e-6)
    assert health.feature_std(a) == pytest.approx(0.383166, abs=1e-6)


@pytest.mark.fast
def test_rank_of_known_matrices():
    columns, _ = np.linalg.qr(gaussian(100, 8))
    assert health.rankme(columns) == pytest.approx(8, abs=1e-4)
    assert health.rankme(gaussian(100, 1) @ gaussian(1, 8)) == pytest.approx(1, abs=1e-4)
    assert health.rankme(1e6 * gaussian(100, 8)) == pytest.approx(health.rankme(gaussian(100, 8)))
    assert health.rankme(np.zeros((5, 3))) == 1


@pytest.mark.fast
def test_spread_of_known_features():
    assert health.feature_std(gaussian(2000, 64)) == pytest.approx(1 / 8, rel=0.02)
    assert health.feature_std(np.arange(1, 6)[:, None] * np.ones(64)) == pytest.approx(0, abs=1e-12)


@pytest.mark.fast
def test_alignment_of_known_pairs():
    x = gaussian(50, 8)
    assert health.alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert health.alignment(x, -x) == pytest.approx(4)
    assert health.alignment(x, -x, alpha=1) == pytest.approx(2)
    assert health.alignment([[1.0, 0]], [[0, 2.0]]) == pytest.approx(2)


@pytest.mark.fast
def test_uniformity_of_known_features():
    assert health.uniformity(np.ones((20, 4))) == pytest.approx(0, abs=1e-12)
    assert health.uniformity(np.eye(5)) == pytest.approx(-4)
    assert health.uniformity(np.eye(5), t=3) == pytest.approx(-6)
    # Pairs (distance 0, 2, 2) squared: the mean is over distinct pairs, not including each with itself.
    expected = np.log((1 + 2 * np.exp(-4)) / 3)
    assert health.uniformity([[1.0, 0], [1, 0], [0, 1]]) == pytest.approx(expected)


@pytest.mark.fast
def test_summary_and_diagnosis():
    features = gaussian(500, 64)
    healthy = health.summary(features)
    assert healthy == {
        "feature_std": health.feature_std(features),
        "feature_std_healthy": 1 / 8,
        "rankme": health.rankme(features),
        "health/dead_units": 0,
        "health/uniformity": health.uniformity(features),
    }
    assert health.diagnose(healthy) is None


@pytest.mark.fast
def test_diagnosis_of_a_point():
    words = health.diagnose(health.summary(1 + 1e-3 * gaussian(500, 64)))
    assert words is not None
    assert "collapsed" in words
    assert "stop-gradient" in words


@pytest.mark.fast
def test_diagnosis_of_a_line():
    # Both signs of one direction: the spread looks healthy, the rank does not.
    line = gaussian(500, 1) * np.ones(64)
    found = health.summary(line)
    assert found["feature_std"] > 0.9 * found["feature_std_healthy"]
    assert "effective rank is 1.00" in (health.diagnose(found) or "")


@pytest.mark.fast
def test_dead_units():
    z = gaussian(50, 8)
    assert health.dead_units(z) == 0
    z[:, 2] = 0
    z[:, 5] = 7 + 1e-9 * gaussian(50, 1)[:, 0]
    assert health.dead_units(z) == 0.25
    assert health.dead_units(np.ones((5, 4))) == 1


@pytest.mark.fast
def test_lidar_of_known_features():
    """Images of eight directions, in views that differ in all of sixteen alike."""
    rng = np.random.default_rng(0)
    means = np.hstack([rng.normal(size=(400, 8)), np.zeros((400, 8))])
    views = means[:, None] + 0.01 * rng.normal(size=(400, 5, 16))
    assert health.lidar(views) == pytest.approx(8, rel=0.05)
    one = np.outer(rng.normal(size=400), np.ones(16))
    assert health.lidar(one[:, None] + 0.001 * rng.normal(size=(400, 5, 16))) == pytest.approx(1, rel=0.05)
    # What tells nothing of the image counts as noise, however large: RankMe sees sixteen directions.
    loud = views + 100 * rng.normal(size=(400, 5, 16)) * (np.arange(16) >= 8)
    assert health.lidar(loud) == pytest.approx(8, rel=0.1)
    assert health.lidar(np.ones((4, 2, 3))) == 1


@pytest.mark.fast
def test_lidar_is_the_papers_formula():
    z = np.random.default_rng(0).normal(size=(6, 3, 4))
    between = np.cov(z.mean(1).T)
    within = sum(np.cov(x.T) for x in z) / 6 + 1e-4 * np.eye(4)
    values = np.linalg.eigvals(np.linalg.solve(within, between)).real
    p = values / values.sum() + 1e-7
    assert health.lidar(z) == pytest.approx(np.exp(-np.sum(p * np.log(p))))


@pytest.mark.fast
def test_diagnosis_of_dead_units():
    z = gaussian(500, 64)
    z[:, 10:] = 0
    assert "84 % of the features are the same" in (health.diagnose(health.summary(z)) or "")


@pytest.mark.fast
def test_diagnosis_of_a_loss_at_chance():
    values = health.summary(gaussian(500, 64)) | {"chance": 5.0, "best": 0.0}
    assert "no better than chance" in (health.diagnose(values | {"loss": 4.95}) or "")
    assert health.diagnose(values | {"loss": 4.8}) is None
    # A loss that is best at -1.
    assert health.diagnose(values | {"chance": 0.0, "best": -1.0, "loss": -0.5}) is None
    assert health.diagnose(values | {"chance": 0.0, "best": -1.0, "loss": -0.01})


@pytest.mark.fast
def test_diagnosis_of_features_that_are_no_better_than_untrained():
    values = health.summary(gaussian(500, 64)) | {"knn/top1_untrained": 0.3}
    assert "shortcut" in (health.diagnose(values | {"knn/top1": 0.29}) or "")
    assert health.diagnose(values | {"knn/top1": 0.31}) is None


@pytest.mark.fast
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: health.rankme(np.zeros(4)), "matrix"),
        (lambda: health.summary(np.zeros((0, 4))), "non-empty"),
        (lambda: health.feature_std([[np.nan, 1.0]]), "NaN"),
        (lambda: health.alignment(np.ones((3, 2)), np.ones((4, 2))), "pairs"),
        (lambda: health.uniformity(np.ones((1, 2))), "single"),
        (lambda: health.lidar(np.ones((5, 1, 2))), "two or more"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(UserError, match=message):
        call()
