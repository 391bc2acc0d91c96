import pytest

from ssl_jax.evals.table import split, table

pytestmark = pytest.mark.fast


def test_a_line_a_measure_and_a_column_a_representation():
    values = {
        "few_shot/a": 0.5,
        "few_shot/a_ci95": 0.012,
        "few_shot/a_untrained": 0.25,
        "few_shot/a_ci95_untrained": 0.02,
        "few_shot/c": 1.0,
    }
    assert table("episodes", values, percent=True).splitlines() == [
        "episodes, % | pretrained | untrained",
        "------------|------------|-----------",
        "few_shot/a  | 50.0 ± 1.2 | 25.0 ± 2.0",
    ]


def test_a_measure_stands_beside_its_baseline():
    values = {"pretext/x": 0.123456, "pretext/x_baseline": 2.0, "pretext/loss_untrained": 3.0}
    text = table("own task", values, percent=False).splitlines()
    assert text[0].split(" | ") == ["own task    ", "pretrained", "untrained", "knows nothing"]
    assert [cell.strip() for cell in text[2].split("|")] == ["pretext/x", "0.1235", "", "2"]


def test_a_spread_without_its_measure_is_one_itself():
    assert "0.1" in table("health", {"health/feature_std": 0.1}, percent=False)


def test_suffixes():
    assert split("knn/top1_pixels") == ("knn/top1", "_pixels")
    assert split("knn/top1") == ("knn/top1", "")
