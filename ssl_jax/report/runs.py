"""What a workdir holds besides checkpoints."""

import dataclasses
import json
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

    @property
    def logged(self) -> set[str]:
        """Names of the logged numbers."""
        return {name for entry in self.entries for name in entry}

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Epochs and values of one logged number."""
        points = [(e["epoch"], e[name]) for e in self.entries if name in e]
        return [p[0] for p in points], [p[1] for p in points]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed, and in how they are logged and saved."""

    name: str
    runs: list[Files]


def groups(runs: list[Files]) -> list[Group]:
    """The runs by what they are, in order of the first of each."""
    found: dict[str, list[Files]] = {}
    for run in runs:
        config = run.config.to_dict() | {"seed": None, "run": None}
        found.setdefault(json.dumps(config, sort_keys=True, default=str), []).append(run)
    methods = [members[0].config.method.name for members in found.values()]
    return [
        Group(method if methods.count(method) == 1 else members[0].name, members)
        for method, members in zip(methods, found.values(), strict=True)
    ]


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
    if config.method.name not in name:
        name = f"{config.method.name}: {name}"
    folder = epath.Path(workdir)
    metrics, results = folder / "metrics.jsonl", folder / "results.json"
    return Files(name, workdir, config, log.read(metrics), stored_results.read(results) or {})
