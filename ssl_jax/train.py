"""The only training loop."""

from collections.abc import Callable, Mapping
import contextlib
import logging
import math
import signal
import time
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, optim, recipes
from ssl_jax.batch import make_loader
from ssl_jax.data import loader
from ssl_jax.epoch import begin_epoch
from ssl_jax.monitor import Monitor
from ssl_jax.recipes import base
from ssl_jax.run import Run, prepare
from ssl_jax.runtime import modules, processes
from ssl_jax.runtime.errors import UserError
from ssl_jax.state import TrainState
from ssl_jax.step import mapped_step, mapped_steps
from ssl_jax.weights import start as starting
from ssl_jax.workdir import config as stored_config
from ssl_jax.workdir import images as stored_images
from ssl_jax.workdir.checkpoint import Checkpoints, out_of_space
from ssl_jax.workdir.log import Log
from ssl_jax.workdir.progress import summary

logger = logging.getLogger("ssl_jax")


class NotFinite(Exception):
    """The loss became NaN or infinite."""


class Stopped(Exception):
    """A signal asked the run to stop; it can be resumed."""


class _Interrupted(Exception):
    """A signal came while something long was computed, which is not finished."""


def train(config: Any, workdir: str, changes: Mapping[str, Any] | None = None) -> None:
    """Trains until the config's last epoch, or resumes what `workdir` holds.

    Args:
      config: 'METHOD:PRESET', or a config as `ssl_jax/recipes/base.py` describes.
      workdir: folder for checkpoints, logs and the config; made if absent.
      changes: fields of the config to other values, as {"epochs": 20, "data.source": "folder:images"}.

    Raises:
      UserError: for anything the user can put right.
      NotFinite: when the loss stopped being a number; names the step.
      Stopped: on SIGTERM or SIGINT, after a checkpoint.
      processes.Diverged: when processes that must hold the same state do not.
    """
    config = recipes.get_config(*config.split(":", 1)) if isinstance(config, str) else config
    config = base.changed(config, changes or {})
    with processes.Stop(dist.make_mesh()) as stop:
        try:
            _train(config, workdir, stop)
        except Exception as error:
            if not out_of_space(error):
                raise
            raise UserError(
                f"The disk of {workdir} is full: make room and repeat the command, which goes on from the last "
                "checkpoint."
            ) from error


def _train(config: Any, workdir: str, stop: processes.Stop) -> None:
    earlier = stored_config.check(workdir, config)
    run = prepare(config)
    stored_images.check(workdir, run.images, run.info.steps_per_epoch)
    longer = "" if earlier is None else _longer(run, workdir, earlier)
    if processes.first():
        stored_config.store(workdir, config)
        stored_images.store(workdir, run.images)
    checkpoints = Checkpoints(workdir, config.run.keep)
    start, ts, origin = _state(run, checkpoints)
    log = Log(workdir, start, _end(run), run.info.batch_size, run.info.steps_per_epoch)
    _introduce(run, workdir, start, log, (origin, longer))
    finished, began = start == _end(run), time.time()
    source = make_loader(run, start)
    with contextlib.ExitStack() as stack:
        for part in (checkpoints, log, source):
            stack.callback(part.close)
        _loop(run, ts, start, source, checkpoints, log, stop)
    epochs = _end(run) // run.info.steps_per_epoch
    for line in summary(log.entries, workdir, epochs, None if finished else time.time() - began):
        log.say(line)


def _state(run: Run, checkpoints: Checkpoints) -> tuple[int, TrainState, str]:
    """Updates done, the state after them, and what to say of where it is from."""
    if found := checkpoints.restore(run.shapes):
        return *found, ""
    if not run.config.init_from:
        return 0, run.init(), ""
    given, origin = starting.variables(run.config.init_from, starting.shapes(run.method, run.shapes))
    return 0, run.init(given), f"The backbone starts from the weights of {origin}."


def _longer(run: Run, workdir: str, earlier: int) -> str:
    """What to say where a finished run of `earlier` epochs gets more.

    Raises:
      UserError: the run is not finished.
    """
    ended = earlier * run.info.steps_per_epoch
    if not (epath.Path(workdir) / "checkpoints" / str(ended)).exists():
        raise UserError(
            f"{workdir} holds a run of {earlier} epochs that is not finished (config.epochs is {run.config.epochs} "
            f"now): let it finish with config.epochs={earlier} first, or choose another --workdir."
        )
    rates = ", ".join(f"{name} {float(rate(jnp.asarray(ended))):.3g}" for name, rate in run.schedules.items())
    return (
        f"The run had ended after {earlier} epochs and goes on to {run.config.epochs}. What is scheduled over the run "
        f"goes by {run.config.epochs} epochs from here on, and does not go on from where it ended: after update "
        f"{ended} {rates}."
    )


def _introduce(run: Run, workdir: str, start: int, log: Log, notes: tuple[str, ...]) -> None:
    params = run.shapes.params
    lines = optim.describe(run.config.optim, run.method.groups(params), params)
    if processes.first():
        (epath.Path(workdir) / "parameters.txt").write_text("\n".join(lines) + "\n")
    excluded = sum(line.endswith("excluded") for line in lines)
    count = sum(x.size for x in jax.tree.leaves(params))
    shared = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    log.say(
        f"{run.config.method.name} on {run.config.data.source}: {_images(run)}. "
        f"{run.info.total_steps} updates of {run.info.batch_size} images, {count / 1e6:.2f} M parameters, "
        f"{run.mesh.devices.size} x {run.mesh.devices.flat[0].device_kind}{shared}."
    )
    if run.train.streamed:
        many = loader.workers(run.config.data.workers)
        log.say(f"Images are streamed and decoded by {many} processes." if many else "Images are streamed.")
    if excluded:
        log.say(
            f"{excluded} of {len(lines)} parameters have no weight decay and no trust ratio: {workdir}/parameters.txt."
        )
    if start == _end(run):
        return
    if start:
        log.say(f"Resuming after update {start}.")
    for words in filter(None, notes):
        log.say(words)
    log.say("Compiling; the first update takes a moment.")


def _images(run: Run) -> str:
    """How many images there are, of which classes and splits."""
    names = run.train.classes
    some = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    classes = f"of {len(names)} classes ({some})" if names else "without labels"
    tests = f"{len(run.test)} test images" if run.test is not None else "no test images"
    return f"{run.info.num_examples} training images {classes}, {tests}"


def _loop(
    run: Run,
    ts: TrainState,
    start: int,
    source: loader.Loader,
    checkpoints: Checkpoints,
    log: Log,
    stop: processes.Stop,
) -> None:
    def between() -> None:
        if stop.now():
            raise _Interrupted

    end, done, pending, count = _end(run), start, None, 0
    most = run.config.run.steps_per_call
    one_update, several = mapped_step(run), mapped_steps(run)
    begin, watch, keep = begin_epoch(run, between), Monitor(run, between), _keeper(run)
    eval_steps, save_steps = _intervals(run)
    between_calls = [n for n in (run.info.steps_per_epoch, eval_steps, save_steps) if n]  # updates from one to the next

    def settle() -> float | None:
        """Reads the metrics that are still out, and returns the loss among them."""
        nonlocal pending
        if pending is None:
            return None
        values = {name: np.atleast_1d(x) for name, x in jax.device_get(pending).items()}
        pending, loss = None, None
        numbers = range(done - count + 1, done + 1)
        pace = log.pace(done) if any(_logged(run, number) for number in numbers) else {}
        for place, number in enumerate(numbers):
            loss = _read(run, {name: float(x[place]) for name, x in values.items()}, number, log, pace)
        return loss

    try:
        due = eval_steps and (start % eval_steps == 0 or start == end)
        # A start from a checkpoint makes up for an evaluation that was cut short.
        if due and processes.decide(not log.has(start, "feature_std")):
            watch(ts, start, log)
        while done < end:
            ts = begin(ts, source.images, done)
            # What is left before an evaluation or a checkpoint comes one by one: a program is of one length.
            coming = most if most <= min(end - done, *(n - done % n for n in between_calls)) else 1
            asked = time.time()
            inputs = source(coming)
            log.waited(time.time() - asked)
            ts, metrics = several(ts, *inputs) if coming > 1 else one_update(ts, *inputs)
            settle()  # the loop reads the updates before while these run
            pending, done, count = metrics, done + coming, coming
            checkpoints.check()
            last, stopped = done == end, bool(stop.soon())
            save = last or (save_steps and done % save_steps == 0)
            evaluate = eval_steps and (done % eval_steps == 0 or last)
            if save or evaluate:
                loss = settle()
                paused = time.time()
                if save:
                    log.flush()
                    keep(checkpoints, done, ts)
                if evaluate and not stopped:
                    watch(ts, done, log, loss)
                log.skip_time(time.time() - paused)
            if stopped and not last:
                raise _Interrupted
    except _Interrupted:
        settle()
        if done > start:
            log.flush()
            keep(checkpoints, done, ts)
        name = signal.Signals(stop.now()).name
        raise Stopped(f"Stopped by {name} after update {done}; the same command resumes.") from None


def _end(run: Run) -> int:
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
    return done % run.config.run.log_steps == 0 or done == _end(run)


def _keeper(run: Run) -> Callable[[Checkpoints, int, TrainState], None]:
    """A function that writes a checkpoint of a state that is fit for it."""
    stored = stored_config.plain(run.config)
    all_finite = jax.jit(lambda tree: jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)])))

    def keep(checkpoints: Checkpoints, done: int, ts: TrainState) -> None:
        # The loss was computed before the update: a checkpoint also wants the weights after it to be numbers.
        if not all_finite(ts.params):
            raise NotFinite(_no_number("weights", done))
        processes.check_equal(ts, f"After update {done}")
        checkpoints.save(done, ts, stored, run.images)

    return keep


def _no_number(what: str, done: int) -> str:
    return (
        f"The {what} of update {done} became NaN or infinite; no checkpoint was written of it. Lower the learning rate "
        "(config.optim.*.learning_rate), lengthen its warm-up, or clip the gradient (config.optim.*.clip)."
    )


def _read(run: Run, values: dict[str, float], done: int, log: Log, pace: dict[str, float]) -> float:
    """Records the metrics of the step that made `done` updates; returns the loss, raises where it is no number."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            raise NotFinite(_no_number(name, done))
    log.advance(done, values["loss"])
    if _logged(run, done):
        log.write(done, {**values, **pace})
    return values["loss"]


modules.make_callable(__name__, train)
