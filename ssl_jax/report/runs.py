"""What a workdir holds besides checkpoints."""

import dataclasses
import json
from typing import Any

from etils import epath

from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.config import load as load_config


@dataclasses.dataclass(frozen=True)
class Files:
    """The records of one run; it may still be running."""

    name: str  # on the page
    workdir: str
    config: Any
    entries: list[dict[str, Any]]  # of metrics.jsonl
    results: dict[str, Any]  # of results.json; empty before evaluation

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Epochs and values of one logged number."""
        points = [(e["epoch"], e[name]) for e in self.entries if name in e]
        return [p[0] for p in points], [p[1] for p in points]


def read(workdirs: list[str]) -> list[Files]:
    """Reads the records of runs.

    Args:
      workdirs: their folders.

    Raises:
      UserError: if one holds no run.
    """
    short = [epath.Path(w).name for w in workdirs]
    names = short if len(set(short)) == len(short) else workdirs
    return [_read(name, workdir) for name, workdir in zip(names, workdirs, strict=True)]


def _read(name: str, workdir: str) -> Files:
    config = load_config(workdir)
    folder = epath.Path(workdir)
    metrics, results = folder / "metrics.jsonl", folder / "results.json"
    entries = []
    for line in metrics.read_text().splitlines() if metrics.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a run that is going on has written half a line
    try:
        found = json.loads(results.read_text()) if results.exists() else {}
    except json.JSONDecodeError as error:
        raise UserError(f"{results} is damaged ({error}): evaluate the run again.") from error
    return Files(name, workdir, config, entries, found)
