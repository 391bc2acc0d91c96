import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ssl_jax.metrics import few_shot
from ssl_jax.runtime.errors import UserError


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data.astype(np.float32), data.target


@pytest.fixture(scope="module")
def some(digits):
    """Twelve episodes of five classes, five labelled and fifteen scored images each."""
    x, labels = digits
    x = unit(x - x.mean(0))
    support, query = few_shot.draw(labels, 5, 5, 15, 12, 0)
    return x[support].reshape(12, 25, 64), x[query].reshape(12, 75, 64)


def test_logistic_is_scikit_learns(some):
    support, query = some
    found = few_shot.logistic(support, query, 5)
    targets = np.repeat(np.arange(5), 5)
    for s, q, answers in zip(support, query, found, strict=True):
        model = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(s.astype(np.float64), targets)
        np.testing.assert_array_equal(answers, model.predict(q.astype(np.float64)))


@pytest.mark.fast
def test_prototypes_are_the_nearest_means(some):
    support, query = some
    means = support.reshape(12, 5, 5, 64).mean(2)
    distance = np.square(query[:, :, None] - means[:, None]).sum(-1)
    np.testing.assert_array_equal(few_shot.nearest_prototype(support, query, 5), distance.argmin(-1))


@pytest.mark.fast
def test_one_shot_recognises_the_labelled_image(some):
    support, _ = some
    ones = support[:, ::5]
    for classify in (few_shot.nearest_prototype, few_shot.logistic):
        np.testing.assert_array_equal(classify(ones, ones, 5), np.tile(np.arange(5), (12, 1)))


@pytest.mark.fast
def test_episodes(digits):
    _, labels = digits
    labels = np.where(labels == 3, -1, labels)
    support, query = few_shot.draw(labels, 4, 2, 15, 50, 0)
    assert support.shape == (50, 4, 2) and query.shape == (50, 4, 15)
    for s, q in zip(support, query, strict=True):
        rows = np.concatenate([s, q], 1)
        assert len(np.unique(rows)) == 4 * 17  # nothing twice, nothing both labelled and scored
        assert all(len(set(labels[r])) == 1 for r in rows)
        assert len({labels[r[0]] for r in rows} - {-1}) == 4
    assert set(labels[support].ravel()) == set(range(10)) - {3}  # all classes come up
    again, _ = few_shot.draw(labels, 4, 2, 15, 50, 0)
    np.testing.assert_array_equal(again, support)
    assert not np.array_equal(few_shot.draw(labels, 4, 2, 15, 50, 1)[0], support)


def test_random_features_give_chance_and_the_interval_is_right(digits):
    _, labels = digits
    x = np.random.default_rng(0).normal(size=(len(labels), 16))
    few = few_shot.few_shot(x, labels, ways=5, shots=1, centre=np.zeros(16), episodes=100)
    many = few_shot.few_shot(x, labels, ways=5, shots=1, centre=np.zeros(16), episodes=400)
    for name in ("prototypes", "logistic", "euclidean"):
        assert many[name][0] == pytest.approx(0.2, abs=3 * many[name][1])
        assert many[name][1] == pytest.approx(few[name][1] / 2, rel=0.35)
        # 75 answers of one in five: 4.6 points an episode at least.
        assert few[name][1] > 1.96 * np.sqrt(0.2 * 0.8 / 75) / 10 * 0.8


def test_shift_and_scale_of_the_features_do_not_matter(digits):
    x, labels = digits
    options = {"ways": 5, "shots": 1, "episodes": 60}
    plain = few_shot.few_shot(x, labels, centre=x.mean(0), **options)
    moved = few_shot.few_shot(2 * x + 8, labels, centre=(2 * x + 8).mean(0), **options)
    for name, found in plain.items():
        assert found == pytest.approx(moved[name], abs=0.002)
    assert 0.5 < plain["prototypes"][0] < 0.95  # not trivial


def test_collapsed_features_are_at_chance(digits):
    _, labels = digits
    found = few_shot.few_shot(np.ones((len(labels), 4)), labels, ways=5, shots=1, centre=np.ones(4), episodes=20)
    assert found["prototypes"][0] == found["logistic"][0] == found["euclidean"][0] == pytest.approx(0.2)


def test_features_as_they_are_keep_their_lengths(digits):
    """Two classes that lie in one direction: only the classifier that leaves features alone tells them apart."""
    labels = np.repeat([0, 1], 20)
    x = np.random.default_rng(0).normal(scale=0.01, size=(40, 3)) + np.where(labels, 5.0, 1.0)[:, None]
    found = few_shot.few_shot(x, labels, ways=2, shots=5, centre=np.zeros(3), episodes=20)
    assert found["euclidean"][0] == 1 and found["prototypes"][0] < 0.9


@pytest.mark.fast
def test_mistakes_are_explained(digits):
    x, labels = digits
    for change in ({"ways": 11}, {"shots": 200}, {"shots": 0}):
        with pytest.raises(UserError, match="cannot be drawn"):
            few_shot.few_shot(x, labels, **({"ways": 5, "shots": 1, "centre": 0.0} | change))
    with pytest.raises(UserError, match="features"):
        few_shot.few_shot(x, labels[1:], ways=5, shots=1, centre=0.0)
