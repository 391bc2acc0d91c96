"""results.json: what evaluations of one checkpoint on one data set found, under flat names."""

import importlib.metadata
import json
import platform
import re
from typing import Any

from etils import epath

import ssl_jax
from ssl_jax import processes
from ssl_jax.errors import UserError

_PACKAGES = ("jax", "flax", "optax", "scikit-learn", "numpy")


class Results:
    """The results file of a workdir.

    What it holds of the same checkpoint and data set is added to; what it holds of another is set aside first, as
    results-STEP-DATA.json.

    Args:
      workdir: of the run.
      step: of the checkpoint.
      data: name of the data set that the run is evaluated on.
      own: name of the run's own data set, which files without a name are about.

    Raises:
      UserError: if the workdir cannot be written.
    """

    def __init__(self, workdir: str, step: int, data: str, own: str) -> None:
        self.path = epath.Path(workdir) / "results.json"
        self.values: dict[str, Any] = {}
        self._same = {"step": step, "data": data}
        if not self.path.exists():
            return
        stored = json.loads(self.path.read_text())
        about = {"step": stored.get("step"), "data": stored.get("data", own)}
        if about == self._same:
            self.values = stored
        elif processes.first():
            slug = re.sub(r"\W+", "_", str(about["data"])).strip("_")
            self.path.replace(self.path.with_name(f"results-{about['step']}-{slug}.json"))

    def add(self, values: dict[str, Any]) -> None:
        """Stores more values; an evaluation that is interrupted keeps what it has found."""
        self.values |= values | self._same
        if not processes.first():
            return
        temporary = self.path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(self.values, indent=2) + "\n")
            temporary.replace(self.path)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}): make the workdir writable.") from error


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what the numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"ssl_jax": ssl_jax.__version__, "python": platform.python_version(), **found}
