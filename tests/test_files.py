"""Files of our own: whole or not there, and where they are damaged that is said."""

import errno
import json
import os
import pathlib
import resource
import signal

import matplotlib
from matplotlib.figure import Figure
import numpy as np
import pytest

from ssl_jax import evaluate, export, weights
from ssl_jax.evals.cache import FeatureCache
from ssl_jax.report import draw, maps, page
from ssl_jax.runtime import files
from ssl_jax.runtime.errors import UserError, explained, in_the_way
from ssl_jax.weights import arrays_file
from ssl_jax.workdir import log, results

pytestmark = pytest.mark.fast
DAMAGE = (b"", b"{", b"null", b"[1]", b"\xff\xfe\x00", b'{"measures": 3}')


@pytest.fixture
def full_disk():
    """Files cannot grow beyond 1,000 bytes, as on a disk that has no more room."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    files.write(path, "old")
    with files.replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyError), files.replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_it_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append("synced"))
    monkeypatch.setattr(pathlib.Path, "replace", lambda self, target: done.append("named"))
    monkeypatch.setattr(os, "replace", lambda source, target: done.append("named"))
    files.write(tmp_path / "a", "x")
    assert done == ["synced", "named", "synced"]


def test_a_full_disk_leaves_what_was_there(tmp_path, full_disk):
    path = tmp_path / "backbone.npz"
    path.write_bytes(b"old")
    for write in (
        lambda: files.write(path, bytes(5000)),
        lambda: arrays_file.write(path, {"a": np.random.default_rng(0).random(1000)}, "{}"),
    ):
        with pytest.raises((OSError, UserError)):
            write()
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    other = tmp_path / "backbone.safetensors"
    with pytest.raises(UserError, match="cannot be written"):
        arrays_file.write(other, {"a": np.zeros(1000)}, "{}")
    assert not other.exists()


def test_a_full_disk_is_said_by_every_program(capsys):
    @explained
    def program():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert program() == 2
    assert capsys.readouterr().err.startswith("Error: The disk is full")


@pytest.mark.parametrize("content", DAMAGE)
def test_damaged_results_are_set_aside_and_made_anew(tmp_path, caplog, content):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    assert results.read(path) is None and "damaged" in caplog.text
    stored = results.Results(str(tmp_path), 3, "digits", "digits", "w", [4, 2])
    stored.record([results.Result("knn/top1", 0.5)])
    assert json.loads(path.read_text())["knn/top1"] == 0.5
    assert (tmp_path / "results.json.damaged").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04.", bytes(100)])
def test_damaged_features_are_extracted_again(tmp_path, content):
    cache = FeatureCache(tmp_path)
    made = [np.arange(3.0)]
    cache.get("pretrained", 1, "k", 1, lambda: made)
    (file,) = (tmp_path / "features").iterdir()
    for damaged in (content, file.read_bytes()[:-30]):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(cache.get("pretrained", 1, "k", 1, lambda: made)[0], made[0])
    np.testing.assert_array_equal(cache.get("pretrained", 1, "k", 1, list)[0], made[0])


def test_features_are_not_unpickled(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.get("a", 1, "k", 1, lambda: [np.array([{}], object)])
    assert cache.get("a", 1, "k", 1, lambda: [np.ones(2)])[0].tolist() == [1, 1]


def test_odd_lines_of_a_log_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = {"step": 1, "epoch": 0.5, "loss": 2.0}
    path.write_bytes(
        b'null\n3\n{"a": 1}\n\xff\xfe\n{"step": "x", "epoch": 1}\n' + json.dumps(good).encode() + b'\n{"step": 2, "ep'
    )
    assert log.read(path) == [good] and log.read(tmp_path / "none") == []


@pytest.mark.parametrize(
    "text",
    ["", "null", "{}", '{"network": 3}', '{"network": {"class": "resnet.ResNet", "name": 7}}', "[", '{"view": {}}'],
)
def test_a_damaged_description_of_a_backbone_is_a_sentence(tmp_path, text):
    arrays_file.write(tmp_path / "b.npz", {"params/a": np.zeros(2)}, text)
    with pytest.raises(UserError, match="describes no backbone"):
        weights.load(tmp_path / "b.npz")


def test_a_section_that_fails_does_not_cost_the_page(caplog):
    def fails():
        raise ValueError("no <b> glyph")

    text = page.page("t", "", [page.Section("First", fails), page.Section("Second", lambda: "<p>there</p>")])
    assert "<p>there</p>" in text and "could not be drawn (ValueError: no &lt;b&gt; glyph)" in text
    assert "First" in caplog.text


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_features_that_are_all_the_same_have_no_map(value, monkeypatch):
    monkeypatch.setattr(maps, "_mapped", lambda s: np.arange(40))
    monkeypatch.setattr(maps, "TSNE", None)
    sample = type("Sample", (), {"queries": np.full((40, 8), value, np.float32)})
    with pytest.raises(page.Empty, match="nothing to map"):
        maps.maps(sample)


def test_a_class_name_may_hold_dollars():
    with matplotlib.rc_context(draw._SETTINGS):
        figure = Figure()
        figure.add_axes((0, 0, 1, 1)).set_title("$x_{$ \\frac")
        assert "$x_{$" in draw.svg(figure)


def test_what_stands_where_a_file_belongs_is_named(tmp_path, capsys):
    (tmp_path / "config.json").mkdir()
    assert evaluate.main([f"--workdir={tmp_path}", "--evals=health"]) == 2
    assert "config.json cannot be used (Is a directory): see what is there" in capsys.readouterr().err
    for make in (lambda: (tmp_path / "config.json" / "x").open(), lambda: (tmp_path / ("a" * 300)).open()):
        with pytest.raises(OSError) as caught:
            make()
        assert bool(in_the_way(caught.value)) == ("File name too long" in str(caught.value))
    behind = RuntimeError("saving failed")
    behind.__cause__ = NotADirectoryError(errno.ENOTDIR, "Not a directory", "r/checkpoints")
    assert in_the_way(behind).startswith("r/checkpoints cannot be used (Not a directory)")
    assert not in_the_way(OSError(errno.EISDIR, "no file is named")) and not in_the_way(ValueError("x"))


def test_a_place_for_an_export_is_a_file(tmp_path):
    """Before anything is computed."""
    for out in (".", str(tmp_path), str(tmp_path / "b"), str(tmp_path / "b.onnx")):
        with pytest.raises(UserError, match=r"does not end in \.npz"):
            export.export(str(tmp_path), "npz", out)
        with pytest.raises(UserError, match=r"^--out=.* ends neither in \.npz nor|^--out=\. ends neither"):
            export.bring_in("theirs.pth", "resnet18", out)
