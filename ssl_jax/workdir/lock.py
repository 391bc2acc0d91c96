"""One process at a time: a lock in the workdir says who works there, and since when."""

from collections.abc import Callable, Iterator
import contextlib
import json
import logging
import os
import pathlib
import socket
import threading
import time
from typing import Any
import uuid

from etils import epath

from ssl_jax.runtime import files, processes
from ssl_jax.runtime.errors import UserError

logger = logging.getLogger("ssl_jax")

BEAT = 30.0  # seconds between two signs of life
SILENCE = 300.0  # seconds without one, after which a process elsewhere counts as gone


@contextlib.contextmanager
def held(workdir: str, what: str) -> Iterator[Callable[[], None]]:
    """Holds a workdir, so that no other process does the same there.

    The first process of a run takes the lock for all. One whose process is gone is taken over: at once where that
    process was of this machine, and otherwise when it has not been renewed for `SILENCE` seconds.

    Args:
      workdir: of the run; made if absent.
      what: is done there: 'train' or 'evaluate'.

    Yields:
      a function that raises `UserError` where another process has taken the lock over, as from one that slept.

    Raises:
      UserError: another process holds it, or the workdir cannot be written; on all processes of the run.
    """
    lock, error = None, None
    if processes.first():
        try:
            lock = _Lock(epath.Path(workdir), what)
        except UserError as found:
            error = found
    if not processes.all_say(error is None):
        raise error or UserError(f"{workdir} cannot be held: see what the first process of this run says.")
    if lock is None:
        yield lambda: None
        return
    try:
        yield lock.check
    finally:
        lock.release()


class _Lock:
    def __init__(self, folder: epath.Path, what: str) -> None:
        self._path, self._own = folder / f"{what}.lock", _identity()
        self._made, self._taken = not folder.exists(), ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._acquire(what)
        except OSError as error:
            where = f"; {self._path.name} is a folder" if self._path.is_dir() else ""
            raise UserError(
                f"The workdir {folder} cannot be written ({error.strerror}{where}): choose another."
            ) from error
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="lock").start()

    def _acquire(self, what: str) -> None:
        while not _create(self._path, json.dumps(self._own)):
            if (there := _read(self._path)) is None:
                if os.path.islink(self._path):
                    raise UserError(f"{self._path} is a link that leads nowhere: remove it.")
                continue  # it has ended just now
            if not _gone(there, self._path):
                raise UserError(
                    f"{self._path.parent} is in use by another {what}: process {there['pid']} on {there['host']}, "
                    f"since {there['since']}. Wait for its end, stop it, or choose another --workdir."
                )
            logger.warning(
                "Process %s on %s, which held %s, is gone; this one takes over.",
                *(there["pid"], there["host"], self._path.parent),
            )
            if _read(self._path) == there:  # else another start was quicker
                self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # a disk that is away for a moment
                there = _read(self._path)
                if there is not None and there["token"] != self._own["token"]:
                    self._taken = f"process {there['pid']} on {there['host']}"
                    return
                files.write(self._path, json.dumps(self._own))

    def check(self) -> None:
        if self._taken:
            raise UserError(
                f"{self._path.parent} was taken over by {self._taken} while this process did not run: it ends here, "
                "and that one goes on."
            )

    def release(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            there = _read(self._path)
            if there is not None and there["token"] == self._own["token"]:
                self._path.unlink(missing_ok=True)
            if self._made and not any(self._path.parent.iterdir()):
                self._path.parent.rmdir()  # nothing came of it


def _create(path: epath.Path, text: str) -> bool:
    """Makes a file unless there is one; returns whether it did. Objects in a bucket are not made exclusively."""
    if "://" in os.fspath(path):
        if path.exists():
            return False
        path.write_text(text)
        return path.read_text() == text
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(number, "w") as file:
            file.write(text)
    except OSError:  # a full disk
        os.unlink(path)
        raise
    return True


def _read(path: epath.Path) -> dict[str, Any] | None:
    """What a lock says; None where it is gone, or was not written to its end."""
    for _ in range(20):  # it may be in the making
        try:
            found = json.loads(path.read_text())
            whole = isinstance(found, dict) and {"pid", "host", "since", "token"} <= set(found)
            if whole and type(found["pid"]) is int and 0 < found["pid"] < 2**31:
                return found
        except FileNotFoundError:
            return None
        except ValueError:
            pass
        time.sleep(0.05)
    # Half written by a process that was killed or whose disk was full: nobody can hold it.
    return {"pid": "?", "host": "?", "since": "?", "token": ""}


def _identity() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "born": _born(pid),
        "place": _place(),
        "token": uuid.uuid4().hex,
    }


def _place() -> str:
    """What processes share that can see each other: a start of the machine, and a container or none."""
    boot, space = pathlib.Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
    if boot.exists() and os.path.exists(space):
        return f"{boot.read_text().strip()} {os.readlink(space)}"
    return socket.gethostname()


def _born(pid: int) -> str:
    """When a process started, which tells it from a later one of the same number; '' if unknown, or if it has ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return ""


def _gone(there: dict[str, Any], path: epath.Path) -> bool:
    """Whether the process that holds a lock is gone."""
    if not there["token"]:
        return True
    if there.get("place") != _place():
        return _silent(there, path)
    try:
        os.kill(there["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's
    born = there.get("born")
    return bool(born) and _born(there["pid"]) != born


def _silent(there: dict[str, Any], path: epath.Path) -> bool:
    """Whether a process elsewhere has shown no sign of life for long; waits as long as that is open.

    Times are those of the files' own machine, since clocks differ.
    """
    began = _changed(path)
    with contextlib.suppress(OSError):
        probe = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
        probe.write_text("")
        age = _changed(probe) - began
        probe.unlink()
        until = time.monotonic() + min(SILENCE, SILENCE - age)
        if time.monotonic() < until:
            logger.warning("Waiting to see whether process %s on %s is alive.", there["pid"], there["host"])
        while time.monotonic() < until:
            time.sleep(min(5.0, SILENCE / 10))
            if _changed(path) != began:
                return False
        return _read(path) == there
    return not path.exists()


def _changed(path: epath.Path) -> float:
    return path.stat().mtime
