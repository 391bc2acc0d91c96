import json

import pytest

from ssl_jax.evals import find
from ssl_jax.evals.table import table
from ssl_jax.workdir import words
from ssl_jax.workdir.results import Result, Results, numbers

pytestmark = pytest.mark.fast


def test_a_line_a_measure_and_a_column_a_representation():
    found = [
        Result("few_shot/a", 0.5, chance=0.2, spread=0.012),
        Result("few_shot/a", 0.25, "untrained", spread=0.02),
        Result("few_shot/b", 3, detail=True),
        Result("few_shot/c", 1.0),
    ]
    assert table("episodes", found).splitlines() == [
        "episodes | pretrained   | untrained    | chance",
        "---------|--------------|--------------|-------",
        "a        | 50.0 ± 1.2 % | 25.0 ± 2.0 % | 20.0 %",
        "c        | 100.0 %      |              |",
    ]


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ("knn/top1", "kNN accuracy ↑"),
        ("linear_lbfgs/top1", "accuracy ↑"),
        ("layers/3/top1", "accuracy, stage 3 ↑"),
        ("few_label/1", "1 label per class ↑"),
        ("few_label/10", "10 labels per class ↑"),
        ("few_label/all", "all labels ↑"),
        ("few_shot/5way_1shot/prototypes", "5-way 1-shot, prototypes ↑"),
        ("retrieval/recall@5", "recall among the first 5 ↑"),
        ("health/rank/2", "effective rank, stage 2 ↑"),
        ("health/dead_units", "dead units ↓"),
        ("fine_tune/frozen2/top1", "first 2 stages copied, frozen ↑"),
        ("linear/learning_rate", "chosen learning rate"),
        ("classifier/top1", "accuracy ↑"),
        ("classifier/target/top1", "accuracy target ↑"),
        ("pretext/masked_mse", "squared error: masked ↓"),
        ("pretext/colorization/ab_bin_accuracy", "colorization, ab bin accuracy"),
        ("seconds/few_label", "few label"),
    ],
)
def test_measures_are_told_in_words(measure, told):
    assert words.of(measure).title == told


def test_every_measure_has_a_definition():
    """The page shows it where the pointer rests on the name."""
    assert [pattern for pattern, told in words._MEASURES.items() if not told.definition.endswith(".")] == []


def test_every_evaluation_has_a_title_in_words():
    assert set(find.evaluations()) <= set(words.GROUPS)


def test_what_is_no_share_is_a_plain_number():
    assert "0.1235" in table("own task", [Result("pretext/loss", 0.123456, kind="loss")])


def test_records_are_read_as_they_were_written(tmp_path):
    found = [
        Result("few_shot/a", 0.5, chance=0.2, spread=0.012),
        Result("few_shot/a", 0.25, "untrained"),
        Result("few_label/1", 0.7, spread=0.1, key="few_label/1/pretrained"),
        Result("pretext/loss", 1.5, kind="loss", chance=3.0),
        Result("linear/c", 2.0, detail=True),
    ]
    store = Results(str(tmp_path), 3, "digits", "digits", "network", [10, 5])
    store.add({"rankme": 2.5})
    store.record(found[:2], **{"seconds/few_shot": 1.0})
    store.record(found[2:])
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["few_shot/a_untrained"] == 0.25 and stored["few_label/1/pretrained"] == 0.7
    read = {r.name: r for r in numbers(stored)}
    for result in found:
        assert read[result.name]._replace(key="") == result._replace(key="")
    assert read["rankme"].kind == "value" and "step" not in read
