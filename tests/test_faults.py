"""What can happen to a long run: stops at awkward moments, a full disk, other devices, an earlier version's config."""

import ctypes
import errno
import gc
import json
import logging
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from ssl_jax import dist, evaluate, loop, monitor, report, train
from ssl_jax.monitor import Monitor
from ssl_jax.recipes import base, get_config
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError, no_writing
from ssl_jax.state import specs as state_specs
from ssl_jax.step import replica_step
from ssl_jax.workdir import config as stored_config
from ssl_jax.workdir import log
from ssl_jax.workdir.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("one_device", "quick_compilation")


def config(**changes):
    """Eight updates of four an epoch, with an evaluation and a checkpoint every two."""
    small = {"batch_size": 320, "epochs": 2, "run.log_steps": 1, "run.eval_images": 64}
    return tiny.config("rotation", **{**small, "run.eval_epochs": 0.5, "run.save_epochs": 0.5, **changes})


def entries(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def final(workdir):
    run = prepare(stored_config.load(str(workdir)))
    return jax.device_get(evaluate.restore(run, str(workdir)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    train.train(config(), str(workdir))
    return final(workdir)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_a_run_traces_its_step_once(tmp_path, monkeypatch, mapping):
    """Over epochs, evaluations and checkpoints; and once more from a checkpoint."""
    traced = tiny.count_traces(monkeypatch)
    train.train(config(mapping=mapping, **{"run.keep": 9}), str(tmp_path))
    assert traced == ["rotation"]
    for step in (6, 8):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    train.train(config(mapping=mapping, **{"run.keep": 9}), str(tmp_path))
    assert traced == ["rotation"] * 2
    assert [e["step"] for e in entries(tmp_path) if "loss" in e] == list(range(1, 9))


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_several_updates_a_call_are_the_same_updates(undisturbed, tmp_path, monkeypatch, mapping):
    """In calls of 3 and 1, then one by one: an epoch has 4 updates, and a checkpoint is due after 6."""
    often = {"run.steps_per_call": 3, "run.eval_epochs": 1.0, "run.save_epochs": 1.5, "run.keep": 9}
    traced = tiny.count_traces(monkeypatch)
    train.train(config(mapping=mapping, **often), str(tmp_path))
    assert len(traced) == 2  # the program of three, and that of one
    told = entries(tmp_path)
    assert [e["step"] for e in told if "loss" in e] == list(range(1, 9))
    assert [e["step"] for e in told if "feature_std" in e] == [0, 4, 8]
    assert all(0 < e["images_per_second"] < 1e9 for e in told if "loss" in e)
    ended = final(tmp_path)
    tiny.assert_close(ended, undisturbed, 1e-4)
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    train.train(config(mapping=mapping, **often), str(tmp_path))
    tiny.assert_same(final(tmp_path), ended)
    assert [(e["step"], e["loss"]) for e in entries(tmp_path) if "loss" in e] == [
        (e["step"], e["loss"]) for e in told if "loss" in e
    ]


@pytest.mark.parametrize("updates", [1, 3])
def test_a_loss_that_is_no_number_names_its_update(tmp_path, monkeypatch, updates):
    """Checkpoints are far between here, so that it is the loss that tells."""
    make = replica_step

    def spoiled(run):
        step = make(run)

        def replica(ts, *arguments):
            after, metrics = step(ts, *arguments)
            return after, metrics | {"loss": jnp.where(ts.step == 4, jnp.nan, metrics["loss"])}

        return replica

    monkeypatch.setattr("ssl_jax.step.replica_step", spoiled)
    with pytest.raises(train.NotFinite, match="The loss of update 5 became NaN"):
        train.train(
            config(**{"run.eval_epochs": 0.0, "run.save_epochs": 9.0, "run.steps_per_call": updates}), str(tmp_path)
        )
    assert Checkpoints(tmp_path).steps() == []
    assert [e["step"] for e in entries(tmp_path) if "loss" in e] == [1, 2, 3, 4]


def test_weights_that_are_no_numbers_are_not_stored(tmp_path, monkeypatch):
    """The loss is computed before the update that spoils them."""
    make = replica_step

    def spoiled(run):
        step = make(run)

        def replica(ts, *arguments):
            after, metrics = step(ts, *arguments)
            return after.replace(params=jax.tree.map(lambda x: x * jnp.nan, after.params)), metrics

        return replica

    monkeypatch.setattr("ssl_jax.step.replica_step", spoiled)
    with pytest.raises(train.NotFinite, match="The weights of update 1 became NaN"):
        train.train(config(**{"run.eval_epochs": 0.0, "run.save_epochs": 0.01}), str(tmp_path))
    assert Checkpoints(tmp_path).steps() == []


class MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`, bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def allocated() -> int:
    """Bytes of the host's heap in use; what the process holds besides depends on the tests before this one."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("The C library does not count its allocations (mallinfo2, glibc 2.33).")
    libc.mallinfo2.restype = MallocInfo
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def test_two_thousand_updates_take_no_more_memory_than_a_few(tmp_path, monkeypatch):
    """With evaluations, checkpoints and the log on the way: no array stays on the device, nothing grows on the host."""
    read, used = loop._read, {}

    def counting(run, values, step, *rest):
        if step % 500 == 0:
            gc.collect()
            used[step] = sum(x.nbytes for x in jax.live_arrays()), allocated()
        return read(run, values, step, *rest)

    monkeypatch.setattr(loop, "_read", counting)
    often = {"run.eval_epochs": 10.0, "run.save_epochs": 10.0, "run.log_steps": 50}
    train.train(config(batch_size=64, epochs=96, **often), str(tmp_path))
    arrays, heap = zip(*(used[step] for step in (500, 1000, 1500, 2000)), strict=True)
    assert len(set(arrays[1:])) == 1
    # Views of 64 images that stayed would be 65 MB a thousand updates; the heap grows by less than 0.3 MB,
    # and what is being written at that moment takes up to 4.
    assert heap[3] - heap[1] < 10e6


def stop_self(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)


def at_first_evaluation(monkeypatch):
    extract = monitor.extractor

    def stopping(*args, between, **kwargs):
        return extract(*args, between=lambda: (stop_self(), between()), **kwargs)

    monkeypatch.setattr(monitor, "extractor", stopping)


def at_third_evaluation(monkeypatch):
    watch = Monitor.__call__

    def stopping(self, ts, done, *args):
        if done == 4:
            stop_self()
        return watch(self, ts, done, *args)

    monkeypatch.setattr(Monitor, "__call__", stopping)


def at_checkpoint(monkeypatch):
    save = Checkpoints.save

    def stopping(self, step, *args):
        save(self, step, *args)
        stop_self()

    monkeypatch.setattr(Checkpoints, "save", stopping)


def at_start(monkeypatch):
    right = train.prepare
    monkeypatch.setattr(train, "prepare", lambda *args: (stop_self(), right(*args))[1])


@pytest.mark.parametrize(
    ("moment", "update"),
    [(at_start, 0), (at_first_evaluation, 0), (at_third_evaluation, 4), (at_checkpoint, 2)],
    ids=["start", "first evaluation", "evaluation", "checkpoint"],
)
def test_a_stop_at_any_moment_loses_nothing(undisturbed, tmp_path, moment, update):
    with pytest.MonkeyPatch.context() as monkeypatch:
        moment(monkeypatch)
        with pytest.raises(train.Stopped, match=f"SIGTERM after update {update};"):
            train.train(config(), str(tmp_path))
    train.train(config(), str(tmp_path))
    tiny.assert_same(final(tmp_path), undisturbed)
    assert [e["step"] for e in entries(tmp_path) if "loss" in e] == list(range(1, 9))
    assert [e["step"] for e in entries(tmp_path) if "feature_std" in e] == [0, 2, 4, 6, 8]  # what was cut is made up


def test_a_full_disk_is_one_sentence_and_keeps_the_checkpoint(undisturbed, tmp_path, monkeypatch):
    """Orbax writes in threads of its own, where the error is met; it reaches the loop at the next look."""
    save = ocp.CheckpointManager.save

    def full(self, step, *args, **kwargs):
        if step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(self, step, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(UserError, match=r"The disk of .* is full: make room and repeat the command") as caught:
            train.train(config(), str(tmp_path))
    assert "\n" not in str(caught.value)
    assert Checkpoints(tmp_path).steps() == [2]
    train.train(config(), str(tmp_path))
    tiny.assert_same(final(tmp_path), undisturbed)


def test_a_full_disk_under_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(log._Lines, "append", lambda self, line: pathlib.Path("/dev/full").write_text(line))
    with pytest.raises(UserError, match="is full"):
        train.train(config(), str(tmp_path))


@pytest.mark.fast
def test_what_says_that_a_disk_is_full():
    full, gone = "is full", "cannot be written any more"
    assert [no_writing(OSError(number, "x")) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)] == [
        full,
        full,
        gone,
    ]
    assert no_writing(ValueError("Error writing local file [OS error 28: No space left on device]")) == full
    assert no_writing(ValueError("UNAVAILABLE: [OS error 30: Read-only file system]")) == gone
    behind = RuntimeError("saving failed")
    behind.__cause__ = OSError(errno.ENOSPC, "x")
    assert no_writing(behind) == full
    assert not no_writing(OSError(errno.ENOENT, "x")) and not no_writing(ValueError("full"))


@pytest.mark.fast
def test_what_cannot_be_caught_of_a_full_disk_is_not_told_again(monkeypatch, capfd):
    """TensorStore's callbacks come to a closed loop while the loop's own sentence is on its way."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    log.speak_plainly()

    class Callback:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    for words in ("Event loop is closed", "RESOURCE_EXHAUSTED: [OS error 28: No space left on device]"):
        Callback(RuntimeError(words))
        assert not capfd.readouterr().err
    Callback(RuntimeError("something else"))
    assert "something else" in capfd.readouterr().err


def test_a_workdir_that_becomes_read_only_is_one_sentence_at_once(undisturbed, tmp_path, monkeypatch):
    real, count = tempfile.TemporaryFile, []

    def refused(*args, dir=None, **kwargs):
        if str(dir).endswith("checkpoints"):
            count.append(1)
            if len(count) == 2:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(*args, dir=dir, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", refused)
        with pytest.raises(UserError, match=r"cannot be written any more: .*repeat the command"):
            train.train(config(), str(tmp_path))
    assert Checkpoints(tmp_path).steps() == [2]
    train.train(config(), str(tmp_path))
    tiny.assert_same(final(tmp_path), undisturbed)


@pytest.mark.parametrize("name", ["byol", "npid"])
def test_a_checkpoint_of_eight_devices_is_restored_on_fewer(tmp_path, name):
    """BYOL has a target, NPID a memory bank in shares."""
    wanted = tiny.steps(name, 1, 8)[0]
    placed = tiny.place(tiny.compiled(name, 8)[0], wanted)
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(1, placed, {})
    checkpoints.close()
    for devices in (1, 2, 4, 8):
        mesh = jax.make_mesh((devices,), (dist.AXIS,), devices=jax.devices()[:devices])
        shardings = dist.shardings(state_specs(tiny.compiled(name, 8)[0].method), mesh)
        like = jax.device_put(jax.tree.map(np.zeros_like, wanted), shardings)
        reader = Checkpoints(tmp_path)
        step, found = reader.restore(like)
        reader.close()
        assert step == 1
        assert all(x.sharding.mesh.size == devices for x in jax.tree.leaves(found))
        tiny.assert_same(jax.device_get(found), wanted)


class Object:
    """A file in a bucket: written as a whole, never appended to."""

    def __init__(self, name, bucket):
        self.name, self._bucket = name, bucket

    def __fspath__(self):
        return f"gs://bucket/{self.name}"

    def with_name(self, name):
        return Object(name, self._bucket)

    def write_text(self, text):
        self._bucket[self.name] = text

    def replace(self, other):
        self._bucket[other.name] = self._bucket.pop(self.name)


@pytest.mark.fast
def test_metrics_in_a_bucket_are_written_anew_now_and_then(monkeypatch):
    now, bucket = [0.0], {}
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    lines = log._Lines(Object("metrics.jsonl", bucket), ["a\n"])
    assert bucket == {"metrics.jsonl": "a\n"}
    lines.append("b\n")
    assert bucket == {"metrics.jsonl": "a\n"}
    now[0] = 61.0
    lines.append("c\n")
    assert bucket == {"metrics.jsonl": "a\nb\nc\n"}
    lines.append("d\n")
    lines.flush()  # as before a checkpoint
    assert bucket["metrics.jsonl"].endswith("d\n")
    lines.append("e\n")
    lines.close()
    assert bucket["metrics.jsonl"] == "a\nb\nc\nd\ne\n"


# --- a config of an earlier version


@pytest.mark.fast
def test_fields_that_a_config_lacks_take_the_presets_value(tmp_path, caplog):
    config = get_config("simclr", "digits")
    config.batch_size = 64
    stored_config.store(str(tmp_path), config)
    file = tmp_path / "config.json"
    whole = json.loads(file.read_text())
    old = json.loads(file.read_text())
    del old["data"]["stream"], old["model"]["remat"], old["method"]["temperature"], old["optim"]["default"]["clip"]
    file.write_text(json.dumps(old))
    with caplog.at_level(logging.WARNING):
        assert stored_config.plain(stored_config.load(str(tmp_path))) == whole
    assert "config.data.stream = auto" in caplog.text and "config.method.temperature = 0.2" in caplog.text
    stored_config.check(str(tmp_path), config)  # so that the run can be resumed
    config.model.remat = 2
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    with pytest.raises(UserError, match=r"model\.remat: 0 there, 2 now"):
        stored_config.check(str(tmp_path), config)


@pytest.mark.fast
def test_views_of_an_earlier_version_stay_as_they_were(tmp_path):
    stored_config.store(str(tmp_path), get_config("simclr", "cifar10_small"))
    file = tmp_path / "config.json"
    old = json.loads(file.read_text())
    assert old["method"]["view1"].pop("pillow") and old["method"]["view2"].pop("pillow")
    file.write_text(json.dumps(old))
    assert stored_config.load(str(tmp_path)).method.view1.pillow is False


@pytest.mark.fast
def test_a_whole_config_is_loaded_as_it_is(tmp_path, caplog):
    config = tiny.config("byol")
    config.optim.slow = base.optimizer()  # a group of its own
    stored_config.store(str(tmp_path), config)
    assert stored_config.plain(stored_config.load(str(tmp_path))) == stored_config.plain(config)
    assert not caplog.text
    assert report.runs.load_config is evaluate.load_config is stored_config.load


@pytest.mark.fast
def test_every_row_of_the_documentation_was_run():
    """The table of docs/reliability.md, the inputs of benchmarks/hostile.py, and the record of what they led to."""
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
    import hostile

    given = [row.given for row in hostile.ROWS]
    assert hostile.documented() == given
    found = {line["input"]: line for line in map(json.loads, hostile.RECORD.read_text().splitlines())}
    assert [name for name in given if not found.get(name, {}).get("right")] == []
