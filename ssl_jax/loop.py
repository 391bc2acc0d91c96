"""The only training loop: updates, and between them evaluations and checkpoints."""

from collections.abc import Callable
import math
import signal
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.data import loader
from ssl_jax.epoch import begin_epoch
from ssl_jax.monitor import Monitor
from ssl_jax.run import Run
from ssl_jax.runtime import equality, processes
from ssl_jax.state import TrainState
from ssl_jax.step import mapped_step, mapped_steps
from ssl_jax.workdir import config as stored_config
from ssl_jax.workdir.checkpoint import Checkpoints
from ssl_jax.workdir.log import Log


class NotFinite(Exception):
    """The loss became NaN or infinite."""


class Stopped(Exception):
    """A signal asked the run to stop; it can be resumed."""


class _Interrupted(Exception):
    """A signal came while something long was computed, which is not finished."""


class Loop:
    """Trains a run from some update on to its end.

    Args:
      run: from `prepare`.
      ts: the state after update `start`.
      start: updates done.
      source: the batches from there on.
      checkpoints: where states are written.
      log: where metrics are written.
      stop: says whether a signal came.
    """

    def __init__(
        self,
        run: Run,
        ts: TrainState,
        start: int,
        source: loader.Loader,
        checkpoints: Checkpoints,
        log: Log,
        stop: processes.Stop,
    ) -> None:
        self._run, self._ts, self._start, self._done = run, ts, start, start
        self._source, self._checkpoints, self._log, self._stop = source, checkpoints, log, stop
        self._end = end_of(run)
        self._pending: Any = None  # metrics of the last call, not read yet
        self._count = 0  # updates of that call
        self._one_update, self._several = mapped_step(run), mapped_steps(run)
        self._begin, self._watch = begin_epoch(run, self._between), Monitor(run, self._between)
        self._keep = _keeper(run)
        self._eval_steps, self._save_steps = _intervals(run)

    def __call__(self) -> None:
        """Trains to the end.

        Raises:
          NotFinite: the loss or the weights are no numbers.
          Stopped: by a signal, after a checkpoint.
        """
        try:
            self._catch_up()
            while self._done < self._end:
                self._advance()
                self._pause()
        except _Interrupted:
            self._settle()
            if self._done > self._start:
                self._save()
            name = signal.Signals(self._stop.now()).name
            raise Stopped(f"Stopped by {name} after update {self._done}; the same command resumes.") from None

    def _between(self) -> None:
        """Called now and then by what takes long."""
        if self._stop.now():
            raise _Interrupted

    def _catch_up(self) -> None:
        """Makes up for an evaluation that was cut short before the checkpoint from which this starts."""
        start, steps = self._start, self._eval_steps
        due = steps and (start % steps == 0 or start == self._end)
        if due and processes.decide(not self._log.has(start, "feature_std")):
            self._watch(self._ts, start, self._log)

    def _advance(self) -> None:
        """One call of the device, of one update or of several."""
        self._ts = self._begin(self._ts, self._source.images, self._done)
        coming = self._coming()
        asked = time.time()
        inputs = self._source(coming)
        self._log.waited(time.time() - asked)
        self._ts, metrics = (self._several if coming > 1 else self._one_update)(self._ts, *inputs)
        self._settle()  # the loop reads the updates before while these run
        self._pending, self._done, self._count = metrics, self._done + coming, coming
        self._checkpoints.check()

    def _coming(self) -> int:
        """Updates of the next call: what is left before an evaluation or a checkpoint comes one by one."""
        most = self._run.config.run.steps_per_call
        intervals = [n for n in (self._run.info.steps_per_epoch, self._eval_steps, self._save_steps) if n]
        left = min(self._end - self._done, *(n - self._done % n for n in intervals))
        return most if most <= left else 1  # a program is of one length

    def _pause(self) -> None:
        """What is due after the updates so far: a checkpoint, an evaluation, the end because of a signal."""
        done = self._done
        last, stopped = done == self._end, bool(self._stop.soon())
        save = last or (self._save_steps and done % self._save_steps == 0)
        evaluate = self._eval_steps and (done % self._eval_steps == 0 or last)
        if save or evaluate:
            metrics = self._settle()
            paused = time.time()
            if save:
                self._save()
            if evaluate and not stopped:
                self._watch(self._ts, done, self._log, metrics)
            self._log.skip_time(time.time() - paused)
        if stopped and not last:
            raise _Interrupted

    def _save(self) -> None:
        self._log.flush()
        self._keep(self._checkpoints, self._done, self._ts)

    def _settle(self) -> dict[str, float] | None:
        """Reads the metrics that are still out, and returns those of the last update."""
        if self._pending is None:
            return None
        values = {name: np.atleast_1d(x) for name, x in jax.device_get(self._pending).items()}
        self._pending, own = None, None
        numbers = range(self._done - self._count + 1, self._done + 1)
        pace = self._log.pace(self._done) if any(_logged(self._run, number) for number in numbers) else {}
        for place, number in enumerate(numbers):
            own = {name: float(x[place]) for name, x in values.items()}
            _read(self._run, own, number, self._log, pace)
        return own


def end_of(run: Run) -> int:
    """Updates after which this start of the run ends; the schedules go on to `info.total_steps`."""
    epoch = run.config.run.stop_epoch
    total = run.info.total_steps
    return total if epoch is None else min(total, epoch * run.info.steps_per_epoch)


def _intervals(run: Run) -> tuple[int, int]:
    """Updates between online evaluations, and between checkpoints; 0: none."""
    epochs = run.config.run.eval_epochs, run.config.run.save_epochs
    evaluations, saves = (max(1, round(n * run.info.steps_per_epoch)) if n > 0 else 0 for n in epochs)
    return evaluations, saves


def _logged(run: Run, done: int) -> bool:
    return done % run.config.run.log_steps == 0 or done == end_of(run)


def _keeper(run: Run) -> Callable[[Checkpoints, int, TrainState], None]:
    """A function that writes a checkpoint of a state that is fit for it."""
    stored = stored_config.plain(run.config)
    all_finite = jax.jit(lambda tree: jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)])))

    def keep(checkpoints: Checkpoints, done: int, ts: TrainState) -> None:
        # The loss was computed before the update: a checkpoint also wants the weights after it to be numbers.
        if not all_finite(ts.params):
            raise NotFinite(_no_number("weights", done))
        equality.check_equal(ts, f"After update {done}")
        checkpoints.save(done, ts, stored, run.images)

    return keep


def _no_number(what: str, done: int) -> str:
    return (
        f"The {what} of update {done} became NaN or infinite; no checkpoint was written of it. Lower the learning rate "
        "(config.optim.*.learning_rate), lengthen its warm-up, or clip the gradient (config.optim.*.clip)."
    )


def _read(run: Run, values: dict[str, float], done: int, log: Log, pace: dict[str, float]) -> None:
    """Records the metrics of the step that made `done` updates; raises where the loss is no number."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            raise NotFinite(_no_number(name, done))
    log.advance(done, values["loss"])
    if _logged(run, done):
        log.write(done, {**values, **pace})
