"""results.json: what evaluations of one network on one data set found.

Each number stands under a flat name, and the part `measures` says what it is: name to the fields of a `Result`.
"""

from collections.abc import Sequence
import importlib.metadata
import json
import logging
import platform
import re
from typing import Any, NamedTuple
import zlib

from etils import epath

import ssl_jax
from ssl_jax.runtime import files, processes
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir import earlier

logger = logging.getLogger("ssl_jax")

_PACKAGES = ("jax", "flax", "optax", "scikit-learn", "numpy")


class Result(NamedTuple):
    """One number that an evaluation found."""

    measure: str  # its name, parts with slashes between them; the first is the evaluation's
    value: Any
    of: str = "pretrained"  # the representation it is of: or 'untrained', 'supervised', 'pixels', 'pca'
    kind: str = "share"  # 0 to 1, shown in %; or 'loss', 'std' (of embeddings), 'value'
    chance: float | None = None  # what an answer by chance would have
    spread: float | None = None  # standard deviation over draws, or half of a 95 % interval
    detail: bool = False  # goes with a measure, as a rate that was chosen, and is none itself
    key: str = ""  # flat name in results.json; by default the measure's, with `of` behind

    @property
    def name(self) -> str:
        """The flat name in results.json."""
        return self.key or (self.measure if self.of == "pretrained" else f"{self.measure}_{self.of}")


class Results:
    """The results file of a workdir.

    What it holds of the same network and data set is added to; what it holds of another is set aside first, as
    results-STEP-DATA.json or, where that is taken, with a number behind. Coming back to a network and data set whose
    results were set aside finds them again. The first process alone reads and writes.

    Args:
      workdir: of the run.
      step: of the checkpoint.
      data: name of the data set that the run is evaluated on.
      own: name of the run's own data set, which files without a name are about.
      network: fingerprint of the weights; backbones in files have no step of their own.
      images: numbers of training and test images; two data sets may have one name. Files of versions that stored
        neither this nor the fingerprint count as being about the same.

    Raises:
      UserError: if the workdir cannot be written.
    """

    def __init__(self, workdir: str, step: int, data: str, own: str, network: str, images: Sequence[int]) -> None:
        self.path = epath.Path(workdir) / "results.json"
        self.values: dict[str, Any] = {}
        self._same = {"step": step, "data": data, "network": network, "images": list(images)}
        if not processes.first():
            return
        stored = read(self.path)
        if stored is None and self.path.exists():
            self.path.replace(self.path.with_name("results.json.damaged"))
        if stored is not None and self._about_the_same(stored, own):
            self.values = stored
            return
        if stored is not None:
            self.path.replace(self._free_name(stored.get("step"), stored.get("data", own)))
        for aside in sorted(self.path.parent.glob("results-*.json")):
            stored = read(aside)
            if stored is not None and self._about_the_same(stored, own):
                aside.replace(self.path)
                self.values = stored
                return

    @property
    def key(self) -> str:
        """Tells the weights and images of these results from others, in file names."""
        return f"{zlib.crc32(json.dumps(self._same, sort_keys=True).encode()):08x}"

    def _about_the_same(self, stored: dict[str, Any], own: str) -> bool:
        known = {"step": None, "data": own} | stored
        return all(known.get(name, value) == value for name, value in self._same.items())

    def _free_name(self, step: Any, data: Any) -> epath.Path:
        slug = re.sub(r"\W+", "_", str(data)).strip("_")
        number, path = 1, self.path.with_name(f"results-{step}-{slug}.json")
        while path.exists():
            number += 1
            path = self.path.with_name(f"results-{step}-{slug}-{number}.json")
        return path

    def record(self, found: Sequence[Result], **beside: Any) -> None:
        """Stores what an evaluation found, and values beside it."""
        told = {}
        for result in found:
            fields = {name: value for name, value in result._asdict().items() if name not in ("value", "key")}
            told[result.name] = {k: v for k, v in fields.items() if v is not None and v is not False}
        measures = self.values.get("measures", {}) | told
        self.add({result.name: result.value for result in found} | beside | {"measures": measures})

    def add(self, values: dict[str, Any]) -> None:
        """Stores more values; an evaluation that is interrupted keeps what it has found."""
        self.values |= values | self._same
        if not processes.first():
            return
        try:
            files.write(self.path, json.dumps(self.values, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}): make the workdir writable.") from error


def numbers(stored: dict[str, Any]) -> list[Result]:
    """The numbers of a results.json in its order; what earlier versions stored is told by its name.

    Args:
      stored: contents of the file.
    """
    values = {k: v for k, v in stored.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    # A later version may store more of a measure.
    known = set(Result._fields) - {"value", "key"}
    measures = {
        name: {field: x for field, x in told.items() if field in known}
        for name, told in stored.get("measures", {}).items()
        if isinstance(told, dict) and isinstance(told.get("measure"), str)
    }
    told = earlier.numbers({k: v for k, v in values.items() if k not in measures})
    found = {
        name: Result(value=values[name], key=name, **fields) for name, fields in measures.items() if name in values
    }
    found |= {name: Result(key=name, **fields) for name, fields in told.items()}
    return [found[name] for name in values if name in found]


def read(path: epath.Path) -> dict[str, Any] | None:
    """What a results file holds; None where there is none, or, said, where it is damaged."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if isinstance(found, dict) and isinstance(found.get("measures", {}), dict):
        return found
    logger.warning("%s is damaged and left out; evaluating again makes it anew.", path)
    return None


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what the numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"ssl_jax": ssl_jax.__version__, "python": platform.python_version(), **found}
