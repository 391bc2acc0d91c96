"""The images of a run as its workdir remembers them: `images.json`, and each checkpoint has a copy.

A schedule counts updates, an order of images is drawn from their number, and a memory bank has a row for each of them:
a run that went on with other images would be wrong without a word.
"""

import json
import logging
from typing import Any

from etils import epath

from ssl_jax.data import record
from ssl_jax.runtime import files
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir import checkpoint, log
from ssl_jax.workdir.config import has_trained

logger = logging.getLogger("ssl_jax")

_NAME = "images.json"


def check(workdir: str, images: dict[str, Any], steps_per_epoch: int) -> None:
    """Makes sure that a run goes on with the images that it began with.

    Args:
      workdir: of the run; one that never made an update may begin with any images.
      images: the record of those of this start.
      steps_per_epoch: updates of this start that are an epoch; a run of an earlier version has this alone.

    Raises:
      UserError: they are others; says what differs.
    """
    folder = epath.Path(workdir)
    if not has_trained(folder):
        return
    there = load(workdir)
    if there is None:
        _check_pace(folder, images, steps_per_epoch)
        logger.warning("%s does not say which images its run began with; from now on it says these.", workdir)
    elif changed := record.differences(there, images):
        raise UserError(
            f"{workdir} holds a run on other images ({'; '.join(changed)}; of {there['name']} then, of "
            f"{images['name']} now): give it those that it began with, or choose another --workdir."
        )


def load(workdir: str) -> dict[str, Any] | None:
    """The record that a workdir or, where that is lost or damaged, its newest checkpoint holds; None without one."""
    try:
        found = json.loads((epath.Path(workdir) / _NAME).read_text())
    except (FileNotFoundError, NotADirectoryError):
        found = None
    except ValueError as error:
        logger.warning("%s/%s is damaged (%s) and made anew.", workdir, _NAME, error)
        found = None
    good = isinstance(found, dict) and {"name", "images"} <= set(found)
    return found if good else checkpoint.stored(workdir, "images")


def store(workdir: str, images: dict[str, Any]) -> None:
    """Writes the record of a run that begins or goes on.

    Raises:
      UserError: it cannot be written.
    """
    try:
        files.write(epath.Path(workdir) / _NAME, json.dumps(images, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"The workdir {workdir} cannot be written ({error.strerror}): choose another.") from error


def _check_pace(folder: epath.Path, images: dict[str, Any], steps_per_epoch: int) -> None:
    """Compares what little a run of an earlier version says: how many updates were an epoch, rounded in its log."""
    curve = folder / "metrics.jsonl"
    for entry in reversed(log.read(curve)):
        step, epoch = entry["step"], entry["epoch"]
        if step and abs(step / steps_per_epoch - epoch) > 1e-4 * max(1, epoch):
            raise UserError(
                f"{folder} holds a run on other images (an epoch had {step / epoch:.5g} updates then and has "
                f"{steps_per_epoch} now, with {images['images']} images of {images['name']}): give it those that it "
                "began with, or choose another --workdir."
            )
        return
