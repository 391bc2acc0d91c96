"""How far a run has come, for people: a bar on a terminal, plain lines elsewhere, and a summary at the end."""

import datetime
import sys
import threading
import time
from typing import Any

from tqdm import tqdm

_LEFT = 5  # updates after which the time left is told
_SMOOTHING = 0.05  # weight of the newest update in the pace


class Progress:
    """The progress of one start of a run.

    Args:
      start: updates done before.
      total: updates of the run.
      steps_per_epoch: updates an epoch.
      shown: whether anything is shown; only the first process shows.
    """

    def __init__(self, start: int, total: int, steps_per_epoch: int, shown: bool) -> None:
        self._start, self._total, self._per_epoch = start, total, steps_per_epoch
        self._shown, self._terminal = shown, shown and sys.stderr.isatty()
        self._values: dict[str, str] = {}
        self._pace = ""
        self._last: tuple[float, int] | None = None  # when the last update was done, and its number
        self._measured, self._seconds = 0, 0.0  # updates since the first, and the pace: seconds an update
        self._bar = tqdm(total=total, initial=start, disable=not self._terminal, dynamic_ncols=True)
        self._compiled = threading.Event()
        if self._terminal and start < total:
            self._ticking = threading.Thread(target=self._tick, daemon=True)
            self._ticking.start()

    def _tick(self) -> None:
        """Shows every second that the run is alive, until the first update is done."""
        began = time.monotonic()
        while not self._compiled.wait(1.0):
            self._draw(f"compiling, {time.monotonic() - began:.0f} s", "")

    def _draw(self, left: str, right: str) -> None:
        self._bar.bar_format = f"{left} |{{bar}}| {right}"
        self._bar.refresh()

    def advance(self, step: int, loss: float) -> None:
        """Moves the bar to `step` updates done."""
        self._values["loss"] = f"{loss:.4f}"
        self._compiled.set()
        self._measure(step)
        if self._terminal:
            self._bar.n = step
            epoch = -(-step // self._per_epoch)
            epochs = -(-self._total // self._per_epoch)
            place = f"epoch {epoch}/{epochs}, step {step}/{self._total}"
            self._draw(place, "  ".join(filter(None, [self._left(step), self._told(), self._pace])))

    def _measure(self, step: int) -> None:
        """Takes an update into the pace; what came before the first, as compilation, is no part of it."""
        now = time.monotonic()
        if self._last is not None and step > self._last[1]:
            count = step - self._last[1]
            self._measured += count
            weight = max(count / self._measured, 1 - (1 - _SMOOTHING) ** count)
            self._seconds += weight * ((now - self._last[0]) / count - self._seconds)
        self._last = now, step

    def _left(self, step: int) -> str:
        """The time left at the present pace."""
        if self._measured < _LEFT:
            return ""
        return f"{datetime.timedelta(seconds=round(self._seconds * (self._total - step)))} left"

    def _told(self) -> str:
        return "  ".join(f"{name} {value}" for name, value in self._values.items())

    def skip_time(self, seconds: float) -> None:
        """Leaves the time of an evaluation or a checkpoint out of the pace."""
        if self._last is not None:
            self._last = self._last[0] + seconds, self._last[1]

    def write(self, step: int, values: dict[str, Any], show: dict[str, str]) -> None:
        """Shows what was logged after `step` updates.

        Args:
          step: updates done.
          values: what was logged.
          show: further things for people, such as the kNN accuracy, with the epoch that they are of.
        """
        epoch = f"{step / self._per_epoch:.3g}"
        self._values |= {name: f"{value} (epoch {epoch})" if name == "kNN" else value for name, value in show.items()}
        rates = [value for name, value in values.items() if name.startswith("lr/")]
        if rates:
            self._values["lr"] = f"{max(rates):.3g}"
        if "images_per_second" in values:
            wait = f"  {values['input_wait']:.0%} waiting for input" if values["input_wait"] >= 0.01 else ""
            self._pace = f"{values['images_per_second']:.0f} img/s{wait}"
        if self._shown and not self._terminal:
            told = [f"step {step}/{self._total}", f"epoch {step / self._per_epoch:.2f}", self._told(), self._pace]
            told.append(self._left(step))
            print("  ".join(filter(None, told)), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._shown:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Ends the bar."""
        self._compiled.set()
        if self._terminal and self._start < self._total:
            self._ticking.join()
        self._bar.close()


def summary(entries: list[dict[str, Any]], workdir: str, epochs: int, seconds: float | None) -> list[str]:
    """What to say at the end of a run: what was reached, where it lies, and the next command.

    Args:
      entries: what was logged, of all starts.
      workdir: of the run.
      epochs: of the run.
      seconds: that this start took; None: the run was finished before.
    """
    reached = []
    accuracies = [(e["step"], e["knn/top1"]) for e in entries if "knn/top1" in e]
    if accuracies:
        before = f", {100 * accuracies[0][1]:.1f} % before training" if accuracies[0][0] == 0 else ""
        reached.append(f"kNN accuracy {100 * accuracies[-1][1]:.1f} %{before}")
    losses = [e["loss"] for e in entries if "loss" in e]
    if losses:
        reached.append(f"loss {losses[-1]:.4g}")
    took = "" if seconds is None else f" in {datetime.timedelta(seconds=round(seconds))}"
    finished = "Finished already" if seconds is None else "Finished"
    return [
        f"{finished}: {epochs} epochs{took}{': ' if reached else ''}{'; '.join(reached)}.",
        f"The run is in {workdir}.",
        f"Next: ssl_jax evaluate {workdir}, then ssl_jax report {workdir}",
    ]
