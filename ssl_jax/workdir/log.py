"""What a run records and tells: JSON lines in the workdir, what its trackers get, and its progress."""

import io
import json
import logging
import os
import sys
import threading
import time
from typing import Any

from etils import epath

from ssl_jax.runtime import files, platforms, processes
from ssl_jax.runtime.errors import no_writing
from ssl_jax.workdir.progress import Progress
from ssl_jax.workdir.trackers import Trackers

_REWRITE_SECONDS = 60  # between copies of the metrics to a bucket


def speak_plainly() -> None:
    """Sets up logging for a command line: our own messages as they are, libraries only when something is wrong."""
    logging.basicConfig(format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as the other stream: names of files may be no text
    for handler in logging.root.handlers:  # a library may have set up its own before
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(logging.Formatter("%(message)s"))
    platforms.without_absent_tpu()
    absl = logging.getLogger("absl")
    absl.setLevel(logging.ERROR)
    # A full disk is told once, by the loop, and not by each thread that meets it.
    absl.addFilter(lambda record: not _told(record.exc_info and record.exc_info[1]))
    threading.excepthook = lambda args: None if _told(args.exc_value) else threading.__excepthook__(args)
    # TensorStore's callbacks find the loop of Orbax closed once that has given up, which nobody can catch.
    sys.unraisablehook = lambda args: None if _told(args.exc_value) else sys.__unraisablehook__(args)


def _told(error: Any) -> bool:
    """Whether an error in a thread of Orbax or TensorBoard comes of a disk that is full or read-only."""
    # The last is how TensorStore's writes end after Orbax has given up waiting for them.
    return isinstance(error, BaseException) and (bool(no_writing(error)) or str(error) == "Event loop is closed")


class _Lines:
    """Appends lines to a file. Objects in a bucket cannot be appended to: there the file is written anew now and then.

    Args:
      path: of the file.
      kept: lines to begin with.
    """

    def __init__(self, path: epath.Path, kept: list[str]) -> None:
        self._path, self._remote = path, "://" in os.fspath(path)
        self._lines, self._written = kept, time.monotonic()
        if self._remote:
            path.write_text("".join(kept))
        else:
            files.write(path, "".join(kept))
        self._file = None if self._remote else path.open("a")

    def append(self, line: str) -> None:
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
            return
        self._lines.append(line)
        if time.monotonic() - self._written > _REWRITE_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._remote:
            self._path.write_text("".join(self._lines))
            self._written = time.monotonic()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()


class Log:
    """The log of one run; only its first process writes or prints.

    Args:
      workdir: folder of the run.
      start: updates done before this start; later entries of an earlier start are dropped.
      total: updates of the run.
      images: that an update sees.
      steps_per_epoch: updates an epoch.
      trackers: further places for the numbers; the first process alone has any.
    """

    def __init__(
        self,
        workdir: str,
        start: int,
        total: int,
        images: int,
        steps_per_epoch: int,
        trackers: Trackers | None = None,
    ) -> None:
        folder = epath.Path(workdir)
        self._total, self._images, self._per_epoch = total, images, steps_per_epoch
        self._first, self._trackers = processes.first(), trackers
        self._kept: list[dict[str, Any]] = []
        if self._first:
            self._kept = _entries_until(folder / "metrics.jsonl", start)
            self._file = _Lines(folder / "metrics.jsonl", [json.dumps(entry) + "\n" for entry in self._kept])
        self._progress = Progress(start, total, steps_per_epoch, self._first)
        self._updated = False
        self._last = (time.time(), start)
        self._waited = 0.0

    def has(self, step: int, name: str) -> bool:
        """Whether an earlier start recorded a value after `step` updates; only the first process knows."""
        return any(entry["step"] == step and name in entry for entry in self._kept)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What was recorded, by all starts; only the first process knows."""
        return self._kept

    def advance(self, step: int, loss: float) -> None:
        """Moves the progress bar to `step` updates done."""
        if not self._updated:  # compilation is no part of the rate
            self._updated, self._last, self._waited = True, (time.time(), step), 0.0
        self._progress.advance(step, loss)

    def write(self, step: int, values: dict[str, float], *, show: dict[str, str] | None = None) -> None:
        """Records values after `step` updates.

        Args:
          step: updates done.
          values: name to number.
          show: further things for people, such as the kNN accuracy, kept on the progress bar.
        """
        entry: dict[str, Any] = {"step": step, "epoch": round(step / self._per_epoch, 4), **values}
        if not self._first:
            return
        self._kept.append(entry)
        self._file.append(json.dumps(entry) + "\n")
        if self._trackers is not None:
            self._trackers.write(step, {"epoch": entry["epoch"], **values})
        self._progress.write(step, values, show or {})

    def flush(self) -> None:
        """Makes sure that what was recorded is where it belongs, before a checkpoint of it counts."""
        if self._first:
            self._file.flush()

    def waited(self, seconds: float) -> None:
        """Adds up how long the loop had to wait for its input."""
        self._waited += seconds

    def pace(self, step: int) -> dict[str, float]:
        """Since the last call: images a second, and the share of the time in which the loop waited for input."""
        now = time.time()
        then, before = self._last
        passed, waited = max(now - then, 1e-9), self._waited
        self._last, self._waited = (now, step), 0.0
        return {"images_per_second": (step - before) * self._images / passed, "input_wait": waited / passed}

    def skip_time(self, seconds: float) -> None:
        """Leaves the time of an evaluation or a checkpoint out of the rate."""
        self._last = (self._last[0] + seconds, self._last[1])
        self._progress.skip_time(seconds)

    def say(self, text: str) -> None:
        """Prints a line without breaking the progress bar."""
        self._progress.say(text)

    def close(self, failed: bool = False) -> None:
        """Closes all files, and ends this start in the trackers."""
        self._progress.close()
        if self._first:
            self._file.close()
            if self._trackers is not None:
                self._trackers.close(failed)


def _entries_until(path: epath.Path, start: int) -> list[dict[str, Any]]:
    """The entries up to the step that is resumed from."""
    return [entry for entry in read(path) if entry["step"] <= start] if start else []


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The entries of a `metrics.jsonl`, without lines that a kill cut short or that are something else."""
    found = []
    for line in path.read_bytes().decode(errors="replace").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and all(isinstance(entry.get(name), int | float) for name in ("step", "epoch")):
            found.append(entry)
    return found
