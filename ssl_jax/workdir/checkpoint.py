"""Checkpoints: Orbax behind the four things that the loop needs of it."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import errno
import itertools
import json
import logging
import os
import shutil
import tempfile
import time
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp

from ssl_jax.runtime import processes
from ssl_jax.runtime.errors import UserError

logger = logging.getLogger("ssl_jax")

_PAUSE = 2.0  # seconds before what could not be read is read once more


def stored(workdir: str | epath.Path, item: str) -> dict[str, Any] | None:
    """What the newest checkpoint says beside the state, without reading that.

    Args:
      workdir: of the run.
      item: 'config', or 'images', which those of earlier versions lack.

    Returns:
      what was given to `Checkpoints.save`; None where no checkpoint has it.
    """
    folder = epath.Path(workdir) / "checkpoints"
    steps = [path for path in folder.iterdir() if path.name.isdigit()] if folder.exists() else []
    for path in sorted(steps, key=lambda path: int(path.name), reverse=True):
        try:
            found = json.loads((path / item / "metadata").read_text())  # as Orbax's JsonSave calls it
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found:
            return found
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back the warnings of Orbax."""
    absl = logging.getLogger("absl")
    before = absl.level
    absl.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl.setLevel(before)


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`; every process of the run writes its part.

    Args:
      workdir: of the run.
      keep: how many of the newest to keep; None to read only and leave all files as they are.
      check: called before each is written; raises where it must not be, as when the workdir is another process's.
    """

    def __init__(
        self, workdir: str | epath.Path, keep: int | None = None, check: Callable[[], None] = lambda: None
    ) -> None:
        self._folder = epath.Path(workdir).resolve() / "checkpoints"
        self._keep, self._check = keep, check
        self._manager = self._open()
        self._saved: int | None = None

    def _open(self) -> ocp.CheckpointManager:
        if self._keep is None:
            with _quiet():  # Orbax warns of what was asked for: that nothing is written
                return ocp.CheckpointManager(self._folder, options=ocp.CheckpointManagerOptions(read_only=True))
        # What a start before this one left half written would fill the disk.
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, cleanup_tmp_directories=True)
        return ocp.CheckpointManager(self._folder, options=options)

    def steps(self) -> Sequence[int]:
        """Steps that have a complete checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, config: dict[str, Any], images: dict[str, Any] | None = None) -> None:
        """Starts to write `state`; returns before it is on disk. A step that is there already is left alone.

        Args:
          step: updates done.
          state: a tree of arrays.
          config: of the run, which `stored` gives back.
          images: the record of its images, likewise.
        """
        if step == self._saved or step in self._manager.all_steps():
            return
        self._check()
        self._make_sure_of_room(state)
        self._saved = step
        said = {"config": ocp.args.JsonSave(config), "images": ocp.args.JsonSave(images or {})}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), **said)
        self._manager.save(step, args=args)

    def _make_sure_of_room(self, state: Any) -> None:
        """Better no checkpoint than half of one; what is compressed needs less.

        Raises:
          OSError: there is no room for it, or nothing can be written there.
        """
        if "://" not in os.fspath(self._folder):
            # Where it has become read-only, Orbax would wait for minutes before it says so.
            with tempfile.TemporaryFile(dir=self._folder):
                pass
            needed = sum(x.nbytes for x in jax.tree.leaves(state))
            if shutil.disk_usage(self._folder).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(self._folder))

    def check(self) -> None:
        """Raises what went wrong in writing since the last call."""
        self._manager.check_for_errors()

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Restores the newest checkpoint that can be read.

        One that cannot be read twice counts as damaged: it is reported, and the one before it is used; unless this is
        read-only, it is moved to `workdir/damaged` so that its step can be written again.

        Args:
          like: a tree of arrays whose shapes, types and shardings are wanted.

        Returns:
          step and state, or None where there is no checkpoint.

        Raises:
          UserError: if there are checkpoints but none can be read; all stay where they are.
        """
        abstract = jax.tree.map(ocp.tree.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        damaged: dict[int, str] = {}
        for step, attempt in itertools.product(reversed(self.steps()), (1, 2)):
            reason = ""
            try:
                state = self._manager.restore(step, args=args)["state"]
            except Exception as error:  # whatever a damaged file makes Orbax or TensorStore raise
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if processes.all_say(not reason):
                self._set_aside(damaged)
                return step, state
            if attempt == 2:
                damaged[step] = reason or "another process could not read it"
            else:
                time.sleep(_PAUSE)  # a store may be away for a moment
        if damaged:
            step, reason = next(iter(damaged.items()))
            raise UserError(
                f"None of the {len(damaged)} checkpoint(s) in {self._folder} can be read (step {step}: {reason}): if "
                "the code or the model has changed use the earlier one, else move the folder away to start anew."
            )
        return None

    def _set_aside(self, damaged: dict[int, str]) -> None:
        for step, reason in damaged.items():
            logger.warning("The checkpoint of step %d cannot be read (%s); the one before it is used.", step, reason)
            if self._keep is not None and processes.first():
                target = self._folder.parent / "damaged"
                target.mkdir(exist_ok=True)
                taken = {path.name for path in target.glob("*")}
                names = itertools.chain([str(step)], (f"{step}-{i}" for i in itertools.count(1)))
                name = next(name for name in names if name not in taken)
                (target / f"{name}.txt").write_text(f"{reason}\n")  # in a bucket it also makes the folder
                (self._folder / str(step)).rename(target / name)
        if damaged and self._keep is not None:
            self._manager.close()
            processes.all_say(True)  # that is, wait until process 0 has moved them
            self._manager = self._open()

    def shapes(self) -> Any | None:
        """What the newest checkpoint holds, as nested dicts of shapes and types on one device; None without any.

        For `restore` where the run's own state is not at hand, because its data set is elsewhere.
        """
        if not self.steps():
            return None
        stored = ocp.StandardCheckpointHandler().metadata(self._folder / str(self.steps()[-1]) / "state").tree
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), stored)

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
