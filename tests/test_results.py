import json

import pytest

from ssl_jax.runtime import processes
from ssl_jax.workdir.results import Results, numbers

pytestmark = pytest.mark.fast


def results(workdir, step=4, data="digits", network="a", images=(10, 5)):
    return Results(str(workdir), step, data, "digits", network, images)


def test_the_same_is_added_to(tmp_path):
    results(tmp_path).add({"knn/top1": 0.5})
    results(tmp_path).add({"linear/top1": 0.6})
    stored = json.loads((tmp_path / "results.json").read_text())
    assert (stored["knn/top1"], stored["linear/top1"]) == (0.5, 0.6)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("change", [{"step": 5}, {"data": "cifar10"}, {"network": "b"}, {"images": (10, 6)}])
def test_another_is_set_aside_and_found_again(tmp_path, change):
    results(tmp_path).add({"knn/top1": 0.5})
    other = results(tmp_path, **change)
    assert not other.values
    other.add({"knn/top1": 0.7})
    assert json.loads((tmp_path / "results-4-digits.json").read_text())["knn/top1"] == 0.5
    for _ in range(2):
        assert results(tmp_path).values["knn/top1"] == 0.5
        assert results(tmp_path, **change).values["knn/top1"] == 0.7
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_set_aside_is_not_overwritten(tmp_path):
    for network in "abcd":
        results(tmp_path, network=network).add({"knn/top1": network})
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["results-4-digits-2.json", "results-4-digits-3.json", "results-4-digits.json", "results.json"]
    for network in "badc":
        assert results(tmp_path, network=network).values["knn/top1"] == network
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_that_does_not_say_which_network_is_about_this_one(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"step": 4, "knn/top1": 0.5}))
    found = results(tmp_path)
    assert found.values["knn/top1"] == 0.5
    found.add({})
    assert not results(tmp_path, network="b").values


def test_the_first_process_alone_reads_and_writes(tmp_path, monkeypatch):
    results(tmp_path).add({"knn/top1": 0.5})
    before = (tmp_path / "results.json").read_text()
    monkeypatch.setattr(processes, "first", lambda: False)
    for step in (4, 5):
        found = results(tmp_path, step=step)
        found.add({"linear/top1": 0.6})
        assert "knn/top1" not in found.values and found.values["linear/top1"] == 0.6
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == before


def test_what_another_version_says_of_a_measure_is_passed_over():
    told = {"knn/top1": {"measure": "knn/top1", "chance": 0.1, "weight": 3}, "ridge/top1": 5, "linear/top1": {"of": 2}}
    found = numbers({"knn/top1": 0.5, "ridge/top1": 0.6, "linear/top1": 0.7, "version": "9", "measures": told})
    assert {r.name: r.value for r in found} == {"knn/top1": 0.5, "ridge/top1": 0.6, "linear/top1": 0.7}
    assert found[0].chance == 0.1
