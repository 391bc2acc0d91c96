"""What a run tells: a progress bar on a terminal, plain lines elsewhere, JSON lines and TensorBoard in the workdir."""

import datetime
import json
import logging
import pathlib
import sys
import time
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm


def speak_plainly() -> None:
    """Sets up logging for a command line: our own messages as they are, libraries only when something is wrong."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)


class Log:
    """The log of one run.

    Args:
      workdir: folder of the run.
      start: updates done before this start; later entries of an earlier start are dropped.
      total: updates of the run.
      batch_size: images an update.
      steps_per_epoch: updates an epoch.
    """

    def __init__(self, workdir: str, start: int, total: int, batch_size: int, steps_per_epoch: int) -> None:
        folder = pathlib.Path(workdir)
        self._path = folder / "metrics.jsonl"
        self._total, self._batch, self._per_epoch = total, batch_size, steps_per_epoch
        self._keep_until(start)
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total * batch_size,
            initial=start * batch_size,
            unit="img",
            unit_scale=True,
            disable=not self._terminal,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._last = (time.time(), start)
        self._waited = 0.0
        self._shown: dict[str, str] = {}
        self._pace = ""

    def _keep_until(self, start: int) -> None:
        """Drops entries after the step that is resumed from, and a line that a kill cut short."""
        if not start or not self._path.exists():
            self._path.write_text("")
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry["step"] <= start:
                kept.append(line + "\n")
        self._path.write_text("".join(kept))

    def advance(self, step: int, loss: float) -> None:
        """Moves the progress bar to `step` updates done."""
        self._shown["loss"] = f"{loss:.4f}"
        if self._terminal:
            self._bar.set_postfix(self._shown, refresh=False)
            self._bar.update(step * self._batch - self._bar.n)

    def write(self, step: int, values: dict[str, float], *, show: dict[str, str] | None = None) -> None:
        """Records values after `step` updates.

        Args:
          step: updates done.
          values: name to number.
          show: further things for people, such as the kNN accuracy, kept on the progress bar.
        """
        self._shown.update(show or {})
        if "images_per_second" in values:
            seconds = (self._total - step) * self._batch / values["images_per_second"]
            left = datetime.timedelta(seconds=round(seconds))
            wait = f"  {values['input_wait']:.0%} waiting for input" if values["input_wait"] >= 0.01 else ""
            self._pace = f"  {values['images_per_second']:.0f} img/s{wait}  {left} left"
        entry: dict[str, Any] = {"step": step, "epoch": round(step / self._per_epoch, 4), **values}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if not self._terminal:
            self._line(step)

    def waited(self, seconds: float) -> None:
        """Adds up how long the loop had to wait for its input."""
        self._waited += seconds

    def pace(self, step: int) -> dict[str, float]:
        """Since the last call: images a second, and the share of the time in which the loop waited for input."""
        now = time.time()
        then, before = self._last
        passed, waited = max(now - then, 1e-9), self._waited
        self._last, self._waited = (now, step), 0.0
        return {"images_per_second": (step - before) * self._batch / passed, "input_wait": waited / passed}

    def skip_time(self, seconds: float) -> None:
        """Leaves the time of an evaluation or a checkpoint out of the rate."""
        self._last = (self._last[0] + seconds, self._last[1])

    def _line(self, step: int) -> None:
        shown = "  ".join(f"{k} {v}" for k, v in self._shown.items())
        print(
            f"step {step}/{self._total}  epoch {step / self._per_epoch:.2f}  {shown}{self._pace}",
            file=sys.stderr,
            flush=True,
        )

    def say(self, text: str) -> None:
        """Prints a line without breaking the progress bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Closes all files."""
        self._bar.close()
        self._board.close()
        self._file.close()
