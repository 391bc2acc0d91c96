"""Two processes on one workdir."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir import lock

pytestmark = pytest.mark.fast
ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.3)
    monkeypatch.setattr(lock, "SILENCE", 3.0)


def stored(workdir, **changes):
    """A lock of a process that may hold it."""
    identity = lock._identity() | {"token": "theirs", "since": "then"} | changes
    workdir.mkdir(exist_ok=True)
    (workdir / "train.lock").write_text(json.dumps(identity))
    return workdir / "train.lock"


def taken(workdir):
    with lock.held(str(workdir), "train") as mine:
        mine()
    assert not (workdir / "train.lock").exists()


def test_it_is_held_and_given_back(tmp_path):
    workdir = tmp_path / "a" / "run"
    with lock.held(str(workdir), "train"):
        assert json.loads((workdir / "train.lock").read_text())["pid"] == os.getpid()
        with (
            pytest.raises(UserError, match=rf"in use by another train: process {os.getpid()} on .*since 20.*--workdir"),
            lock.held(str(workdir), "train"),
        ):
            pass
        with lock.held(str(workdir), "evaluate"):
            pass  # a running run may be evaluated
        (workdir / "x").write_text("")
    assert [path.name for path in workdir.iterdir()] == ["x"]
    taken(workdir)


def test_a_folder_that_nothing_came_of_goes(tmp_path):
    taken(tmp_path / "run")
    assert not (tmp_path / "run").exists()


HOLD = """
import sys, time
from ssl_jax.workdir import lock
with lock.held(sys.argv[1], "train"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("reaped", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, caplog, reaped):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {other.pid} on"), lock.held(str(tmp_path / "run"), "train"):
        pass
    other.kill()
    if reaped:
        other.wait()
    else:
        time.sleep(0.5)
    taken(tmp_path / "run")
    assert f"Process {other.pid} on" in caplog.text and "takes over" in caplog.text
    other.communicate()


def test_another_process_may_have_its_number_since(tmp_path):
    stored(tmp_path / "run", born="1")
    taken(tmp_path / "run")


@pytest.mark.parametrize("content", ["", '{"pid"', "null"])
def test_a_lock_that_was_cut_short_holds_nothing(tmp_path, content):
    (tmp_path / "train.lock").write_text(content)
    taken(tmp_path)


@pytest.mark.parametrize("pid", ["x", 0, -1, 10**30, None])
def test_a_lock_of_no_process_holds_nothing(tmp_path, pid):
    stored(tmp_path / "run", pid=pid)
    taken(tmp_path / "run")


def test_a_lock_that_does_not_say_when_its_process_began(tmp_path):
    path = stored(tmp_path / "run", pid=1)
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "born"}))
    with pytest.raises(UserError, match="process 1 on"), lock.held(str(tmp_path / "run"), "train"):
        pass


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_no_lock_is_a_sentence(tmp_path, kind):
    os.symlink("nowhere", tmp_path / "train.lock") if kind == "link" else (tmp_path / "train.lock").mkdir()
    words = (
        "train.lock is a link that leads nowhere: remove it"
        if kind == "link"
        else r"cannot be written \(Is a directory; train.lock is a folder\)"
    )
    with pytest.raises(UserError, match=words), lock.held(str(tmp_path), "train"):
        pass


def test_a_process_elsewhere_that_is_silent_is_gone(tmp_path):
    """At once where the silence was long by the file server's clock, whatever the clocks of the machines say."""
    file = stored(tmp_path / "run", place="elsewhere", host="far")
    os.utime(file, (1e9, 1e9))
    began = time.monotonic()
    taken(tmp_path / "run")
    assert time.monotonic() - began < 2
    stored(tmp_path / "run", place="elsewhere", host="far")
    taken(tmp_path / "run")
    assert time.monotonic() - began > 2.5


def test_a_process_elsewhere_that_gives_signs_of_life_holds_it(tmp_path):
    file = stored(tmp_path / "run", place="elsewhere", host="far")
    os.utime(file, (time.time() - 2, time.time() - 2))
    sign = threading.Timer(0.7, lambda: os.utime(file, (time.time() + 50,) * 2))
    sign.start()
    with pytest.raises(UserError, match="on far, since then"), lock.held(str(tmp_path / "run"), "train"):
        pass
    sign.join()


def test_a_process_that_slept_learns_that_it_was_taken_over(tmp_path):
    with lock.held(str(tmp_path), "train") as mine:
        mine()
        stored(tmp_path, host="far", pid=7)
        time.sleep(1)
        with pytest.raises(UserError, match="taken over by process 7 on far"):
            mine()
    assert (tmp_path / "train.lock").exists()


def test_signs_of_life_are_given(tmp_path):
    with lock.held(str(tmp_path), "train"):
        os.utime(tmp_path / "train.lock", (1e9, 1e9))
        time.sleep(1)
        assert (tmp_path / "train.lock").stat().st_mtime > 1e9
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), lock.held(str(tmp_path / "file" / "run"), "train"):
        pass


def test_a_full_disk_leaves_no_lock(tmp_path):
    """A start on it is refused in a sentence, and the next one finds nothing to take over."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(UserError, match="cannot be written"), lock.held(str(tmp_path), "train"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
