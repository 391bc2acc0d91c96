import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from tiny import generator

from ssl_jax.metrics import knn
from ssl_jax.runtime.errors import UserError


def example(seed=0, n=300, m=50, d=16, classes=7):
    """Overlapping clusters, so that votes are contested."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, d))
    labels, query_labels = rng.integers(classes, size=n), rng.integers(classes, size=m)
    bank = centres[labels] + 2 * rng.normal(size=(n, d))
    queries = centres[query_labels] + 2 * rng.normal(size=(m, d))
    return bank, labels, queries, query_labels


@pytest.mark.fast
@pytest.mark.parametrize("file", ["knn_k200_t0.1", "knn_k20_t0.07"])
def test_reference_numbers(golden, file):
    ref = np.load(golden / f"{file}.npz")
    options = {"num_classes": 10, "k": int(ref["k"]), "temperature": float(ref["temperature"])}
    predicted = knn.predict(ref["bank"], ref["bank_labels"], ref["query"], **options)
    np.testing.assert_array_equal(predicted, ref["predicted"])
    assert predicted.dtype == np.int32
    top1 = knn.top1(ref["bank"], ref["bank_labels"], ref["query"], ref["query_labels"], **options)
    assert top1 == ref["top1"]


@pytest.mark.fast
def test_value_of_the_specification():
    bank, queries = generator(6, 3, 2.3), generator(4, 3, 0.1)
    predicted = knn.predict(bank, [0, 0, 1, 1, 2, 2], queries, num_classes=3, k=3, temperature=0.1)
    assert predicted.tolist() == [2, 0, 0, 0]


@pytest.mark.fast
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (5, 0.5), (20, 0.07), (300, 0.1)])
def test_agrees_with_scikit_learn(k, temperature):
    bank, labels, queries, query_labels = example()
    other = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(bank, labels)
    predicted = knn.predict(bank, labels, queries, num_classes=7, k=k, temperature=temperature)
    np.testing.assert_array_equal(predicted, other.predict(queries))
    top1 = knn.top1(bank, labels, queries, query_labels, num_classes=7, k=k, temperature=temperature)
    assert top1 == pytest.approx(other.score(queries, query_labels))


def nearest(bank, labels, queries):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, bank)]
    return labels[np.argmax(unit[0] @ unit[1].T, axis=1)]


@pytest.mark.fast
def test_one_neighbour_is_the_nearest():
    bank, labels, queries, _ = example(1)
    predicted = knn.predict(bank, labels, queries, num_classes=7, k=1)
    np.testing.assert_array_equal(predicted, nearest(bank, labels, queries))


@pytest.mark.fast
@pytest.mark.parametrize("temperature", [1e-4, 1e-20])
def test_cold_votes_are_those_of_the_nearest(temperature):
    bank, labels, queries, _ = example(2)
    warm = knn.predict(bank, labels, queries, num_classes=7, k=50, temperature=1)
    cold = knn.predict(bank, labels, queries, num_classes=7, k=50, temperature=temperature)
    np.testing.assert_array_equal(cold, nearest(bank, labels, queries))
    assert (warm != cold).any()


@pytest.mark.fast
def test_equal_similarities_are_a_majority_vote():
    bank = np.array([[1.0, 0], [2, 0], [3, 0], [0, 1]])
    assert knn.predict(bank, [0, 1, 1, 0], [[5.0, 0]], num_classes=2, k=3).tolist() == [1]


@pytest.mark.fast
def test_ties():
    bank = np.array([[0.0, 1], [1, 0], [1, 0], [1, 0]])
    # k cuts through three equals: the first two in the bank vote.
    assert knn.predict(bank, [0, 2, 2, 1], [[1.0, 0]], num_classes=3, k=1).tolist() == [2]
    many = np.where(np.arange(5000) < 5, 1, 0)
    assert knn.predict(np.ones((5000, 2)), many, [[1.0, 1]], num_classes=2, k=5).tolist() == [1]
    # Two classes with equal sums: the lower number wins.
    assert knn.predict(bank, [0, 2, 1, 0], [[1.0, 0]], num_classes=3, k=2).tolist() == [1]


@pytest.mark.fast
def test_order_of_the_bank_and_scale_do_not_matter():
    bank, labels, queries, _ = example(3)
    order = np.random.default_rng(0).permutation(len(bank))
    scale = np.random.default_rng(1).uniform(0.1, 1000, (len(bank), 1))
    straight = knn.predict(bank, labels, queries, num_classes=7)
    np.testing.assert_array_equal(
        straight, knn.predict((scale * bank)[order], labels[order], queries * 50, num_classes=7)
    )


@pytest.mark.fast
def test_blocks_change_nothing_and_compile_once():
    bank, labels, queries, _ = example(4)
    whole = knn.predict(bank, labels, queries, num_classes=7)
    knn._vote.clear_cache()
    for temperature in (0.1, 0.2):
        blocks = knn.predict(bank, labels, queries, num_classes=7, temperature=temperature, block=16)
        if temperature == 0.1:
            np.testing.assert_array_equal(blocks, whole)
    assert knn._vote._cache_size() == 1
    assert knn.predict(bank, labels, queries[:0], num_classes=7).shape == (0,)


@pytest.mark.fast
def test_a_large_bank_is_asked_about_fewer_queries_at_a_time(monkeypatch):
    bank, labels, queries, _ = example(4)
    whole, right, asked = knn.predict(bank, labels, queries, num_classes=7), knn._vote, []

    def vote(bank, bank_labels, queries, *args, **options):
        asked.append(len(queries))
        return right(bank, bank_labels, queries, *args, **options)

    monkeypatch.setattr(knn, "_vote", vote)
    monkeypatch.setattr(knn, "_SIMILARITIES", 20 * len(bank))
    np.testing.assert_array_equal(knn.predict(bank, labels, queries, num_classes=7), whole)
    monkeypatch.setattr(knn, "_SIMILARITIES", 1)
    np.testing.assert_array_equal(knn.predict(bank, labels, queries[:2], num_classes=7), whole[:2])
    assert asked == [20, 20, 20, 1, 1]


@pytest.mark.fast
def test_half_precision_features_do_not_overflow():
    bank, labels, queries, _ = example(5)
    half = [(1000 * x).astype(np.float16) for x in (bank, queries)]
    predicted = knn.predict(half[0], labels, half[1], num_classes=7)
    same = knn.predict(half[0].astype(np.float64), labels, half[1].astype(np.float64), num_classes=7)
    np.testing.assert_array_equal(predicted, same)


@pytest.mark.fast
def test_unlabelled_entries_take_no_part():
    bank, labels, queries, query_labels = example(6)
    unknown = np.arange(len(bank)) % 3 == 0
    dropped = knn.predict(bank[~unknown], labels[~unknown], queries, num_classes=7)
    masked = np.where(unknown, -1, labels)
    np.testing.assert_array_equal(dropped, knn.predict(bank, masked, queries, num_classes=7))
    half = np.where(np.arange(len(queries)) % 2, query_labels, -1)
    expected = knn.top1(bank, labels, queries[1::2], query_labels[1::2], num_classes=7)
    assert knn.top1(bank, labels, queries, half, num_classes=7) == expected


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 301}, "only 300"),
        ({"k": 0}, "positive"),
        ({"temperature": 0.0}, "positive"),
        ({"num_classes": 3}, "num_classes"),
        ({"bank_labels": np.zeros(4, int)}, "bank labels of shape"),
        ({"queries": np.zeros((3, 5))}, "one width"),
        ({"queries": np.full((3, 16), np.nan)}, "NaN"),
    ],
)
def test_mistakes_are_explained(change, message):
    bank, labels, queries, _ = example()
    right = {"bank": bank, "bank_labels": labels, "queries": queries, "num_classes": 7}
    with pytest.raises(UserError, match=message):
        knn.predict(**{**right, **change})


@pytest.mark.fast
def test_accuracy_needs_labels():
    bank, labels, queries, query_labels = example()
    with pytest.raises(UserError, match="every query label is -1"):
        knn.top1(bank, labels, queries, np.full(50, -1), num_classes=7)
    with pytest.raises(UserError, match="one label for each query"):
        knn.top1(bank, labels, queries, query_labels[:-1], num_classes=7)
