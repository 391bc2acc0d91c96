import json

import pytest

from ssl_jax.evals.table import table
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
        "episodes   | pretrained   | untrained    | chance",
        "-----------|--------------|--------------|-------",
        "few_shot/a | 50.0 ± 1.2 % | 25.0 ± 2.0 % | 20.0 %",
        "few_shot/c | 100.0 %      |              |",
    ]


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
