"""Starts a run, or resumes it: from a config to the training loop."""

from collections.abc import Callable, Mapping
import contextlib
import time
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp

from ssl_jax import channels, dist, limits, optim, recipes
from ssl_jax.batch import make_loader
from ssl_jax.data import loader
from ssl_jax.loop import Loop, NotFinite, Stopped, end_of
from ssl_jax.recipes import base
from ssl_jax.run import Run, prepare
from ssl_jax.runtime import files, modules, processes
from ssl_jax.runtime.errors import UserError, in_the_way, no_writing
from ssl_jax.state import TrainState
from ssl_jax.weights import start as starting
from ssl_jax.workdir import config as stored_config
from ssl_jax.workdir import images as stored_images
from ssl_jax.workdir import lock, trackers
from ssl_jax.workdir.checkpoint import Checkpoints
from ssl_jax.workdir.log import Log
from ssl_jax.workdir.progress import summary


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
      equality.Diverged: when processes that must hold the same state do not.
    """
    config = recipes.get_config(*config.split(":", 1)) if isinstance(config, str) else config
    config = base.changed(config, changes or {})
    with lock.held(workdir, "train") as mine, processes.Stop(dist.make_mesh()) as stop:
        try:
            _train(config, workdir, stop, mine)
        except Exception as error:
            if why := no_writing(error):
                raise UserError(
                    f"The disk of {workdir} {why}: make room and repeat the command, which goes on from the last "
                    "checkpoint."
                ) from error
            if not isinstance(error, UserError) and (words := in_the_way(error)):
                raise UserError(words) from error
            raise


def _train(config: Any, workdir: str, stop: processes.Stop, mine: Callable[[], None]) -> None:
    trackers.names(config.run.loggers)  # before anything that takes long
    config = channels.completed(config)
    earlier = stored_config.check(workdir, config)
    run = prepare(config)
    config = run.config
    stored_images.check(workdir, run.images, run.info.steps_per_epoch)
    longer = "" if earlier is None else _longer(run, workdir, earlier)
    if processes.first():
        stored_config.store(workdir, config)
        stored_images.store(workdir, run.images)
    checkpoints = Checkpoints(workdir, config.run.keep, mine)
    start, ts, origin = _state(run, checkpoints)
    tracking = trackers.Trackers(workdir, config, start) if processes.first() else None
    log = Log(workdir, start, end_of(run), run.images_per_update, run.info.steps_per_epoch, tracking)
    _introduce(run, workdir, start, log, (origin, longer))
    finished, began = start == end_of(run), time.time()
    source = make_loader(run, start)
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoints.close)
        stack.push(lambda kind, *_: log.close(failed=kind is not None))
        stack.callback(source.close)
        Loop(run, ts, start, source, checkpoints, log, stop)()
    epochs = end_of(run) // run.info.steps_per_epoch
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
        files.write(epath.Path(workdir) / "parameters.txt", "\n".join(lines) + "\n")
    excluded = sum(line.endswith("excluded") for line in lines)
    count = sum(x.size for x in jax.tree.leaves(params))
    shared = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    log.say(
        f"{run.config.method.name} on {run.config.data.source}: {_images(run)}. "
        f"{run.info.total_steps} updates of {run.images_per_update} images, {count / 1e6:.2f} M parameters, "
        f"{run.mesh.devices.size} x {run.mesh.devices.flat[0].device_kind}{shared}."
    )
    if run.train.streamed:
        many = loader.workers(run.config.data.workers)
        log.say(f"Images are streamed and decoded by {many} processes." if many else "Images are streamed.")
    if excluded:
        log.say(
            f"{excluded} of {len(lines)} parameters have no weight decay and no trust ratio: {workdir}/parameters.txt."
        )
    if start == end_of(run):
        return
    for remark in limits.remarks(run.config):
        log.say(remark)
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
    bare = int((run.train.labels < 0).sum())
    classes += f", {bare} of them without a label" if names and bare else ""
    found = f"{run.info.num_examples} training images {classes}"
    if run.test is None:
        return f"{found}, no test images"
    if not run.test.held_out:
        return f"{found}, {len(run.test)} test images"
    share = f"{100 * run.config.data.holdout:g} %"
    return f"{found}, {len(run.test)} held-out images ({share} of each class, since there are no test images)"


__all__ = ["NotFinite", "Stopped", "train"]

modules.make_callable(__name__, train)
