"""What a workdir holds besides checkpoints."""

import dataclasses
from typing import Any

from etils import epath

from ssl_jax.workdir import log
from ssl_jax.workdir import results as stored_results
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
    return Files(name, workdir, config, log.read(metrics), stored_results.read(results) or {})
