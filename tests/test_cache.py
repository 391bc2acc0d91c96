import logging
import os

import numpy as np
import pytest

from ssl_jax.evals.cache import FeatureCache
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.fingerprint import fingerprint

pytestmark = pytest.mark.fast


def arrays(value=1.0):
    return [np.full((3, 2), value, np.float32), np.zeros((0, 2), np.float32)]


def never():
    raise AssertionError("extracted again")


def test_a_second_look_reads_what_the_first_wrote(tmp_path):
    for make in (arrays, never):
        found = FeatureCache(tmp_path).get("pretrained", 5, "a", 2, make)
        for x, y in zip(found, arrays(), strict=True):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype


def test_another_step_or_key_is_extracted_anew_and_stale_steps_are_dropped(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.get("pretrained", 5, "a", 2, arrays)
    cache.get("untrained", 0, "u", 2, arrays)
    assert cache.get("pretrained", 5, "b", 2, lambda: arrays(2.0))[0][0, 0] == 2  # another data set, say
    names = sorted(p.name for p in (tmp_path / "features").iterdir())
    assert names == ["pretrained-5-a.npz", "pretrained-5-b.npz", "untrained-0-u.npz"]
    assert cache.get("pretrained", 6, "c", 2, lambda: arrays(3.0))[0][0, 0] == 3
    assert sorted(p.name for p in (tmp_path / "features").iterdir()) == ["pretrained-6-c.npz", "untrained-0-u.npz"]


def test_the_oldest_go_when_there_is_too_much(tmp_path, caplog):
    cache = FeatureCache(tmp_path, limit=5000)
    for age, key in enumerate("abc"):
        cache.get("pretrained", 1, key, 1, lambda: [np.zeros(500, np.float32)])
        os.utime(tmp_path / "features" / f"pretrained-1-{key}.npz", (100 + age, 100 + age))
    left = {p.name for p in (tmp_path / "features").iterdir()}
    assert left == {"pretrained-1-b.npz", "pretrained-1-c.npz"}
    with caplog.at_level(logging.INFO):  # larger than all that may be kept
        FeatureCache(tmp_path, limit=20).get("pretrained", 2, "d", 2, arrays)
    assert not list((tmp_path / "features").iterdir()) and "too many to be kept" in caplog.text


def test_a_damaged_file_is_reported_and_replaced(tmp_path, caplog):
    cache = FeatureCache(tmp_path)
    cache.get("pretrained", 1, "a", 2, arrays)
    path = tmp_path / "features" / "pretrained-1-a.npz"
    path.write_bytes(path.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        assert len(cache.get("pretrained", 1, "a", 2, arrays)) == 2
    assert "extracted again" in caplog.text
    cache.get("pretrained", 1, "a", 2, never)


def test_a_file_with_another_number_of_arrays_is_replaced(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.get("pretrained", 1, "a", 2, arrays)
    assert len(cache.get("pretrained", 1, "a", 4, lambda: arrays() + arrays())) == 4
    assert len(cache.get("pretrained", 1, "a", 4, never)) == 4


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "features").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        FeatureCache(tmp_path).get("pretrained", 1, "a", 2, arrays)


def test_fingerprints():
    tree = {"a": np.arange(6.0), "b": "text"}
    assert fingerprint(tree) == fingerprint({"a": np.arange(6.0), "b": "text"})
    others = [
        {"a": np.arange(6.0).reshape(2, 3), "b": "text"},
        {"a": np.arange(6, dtype=np.int64), "b": "text"},
        {"a": np.arange(6.0) + 1e-12, "b": "text"},
        {"a": np.arange(6.0), "b": "test"},
    ]
    assert len({fingerprint(t) for t in (tree, *others)}) == 5
