"""What transfers to what: pretrained runs as rows, tasks as columns, as in Taskonomy (Zamir et al. 2018).

Each run's backbone is frozen, and for every task a small decoder learns on the same few images with the same number of
updates. Two runs are compared by the share of the held-out images on which one has the lower loss.
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import time
from typing import Any

import numpy as np

from ssl_jax.evals import context
from ssl_jax.evals.context import Images, Network
from ssl_jax.evals.run import restore
from ssl_jax.metrics import affinity
from ssl_jax.run import prepare
from ssl_jax.runtime import files
from ssl_jax.runtime.errors import UserError, nearest
from ssl_jax.transfer import decoder, page, targets
from ssl_jax.transfer.decoder import Budget
from ssl_jax.workdir.config import load as load_config

UNTRAINED = "untrained"


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Losses of the held-out images [rows, images] by target."""

    rows: tuple[str, ...]
    losses: dict[str, np.ndarray]

    def summary(self) -> dict[str, Any]:
        """Mean losses, win rates and affinities, as JSON has them."""
        rates = {name: affinity.win_rates(x) for name, x in self.losses.items()}
        found: dict[str, Any] = {"rows": list(self.rows), "targets": {}}
        for name, x in self.losses.items():
            entry = {
                "loss": x.mean(1).tolist(),
                "win_rate": rates[name].tolist(),
                "affinity": affinity.affinities(rates[name]).tolist(),
            }
            # Gain over no training at all, and quality beside what learnt with labels.
            for word, row in (("gain", UNTRAINED), ("quality", "supervised")):
                if row in self.rows:
                    entry[word] = rates[name][:, self.rows.index(row)].tolist()
            found["targets"][name] = entry
        return found


def transfer(
    out: str,
    *workdirs: str,
    data: str | None = None,
    path: str | None = None,
    wanted: Sequence[str] = (),
    budget: Budget | None = None,
) -> Matrix:
    """Measures the matrix and writes transfer.json, losses.npz and transfer.html.

    Args:
      out: folder for them, made if absent.
      *workdirs: of the runs; the first one untrained is a row of its own.
      data: data set of the tasks, as `config.data.source`; None: that of the first run.
      path: where to look for it, as `config.data.path`.
      wanted: names of targets; (): all that the data have.
      budget: what every decoder has; None: the usual.

    Raises:
      UserError: for no run, one without a checkpoint, or a target that there is not.
    """
    if not workdirs:
        raise UserError("transfer compares runs, and there is none: ssl_jax transfer OUT RUN RUN ... --data=scenes.")
    budget = budget or Budget()
    folder = pathlib.Path(out)
    began, losses, names = time.time(), {}, _names(workdirs)
    for name, workdir in zip(names, workdirs, strict=True):
        run = prepare(load_config(workdir))
        rows = {name: Network(run, restore(run, workdir))}
        if name == names[0]:
            rows[UNTRAINED] = Network(run, run.init())
        images = _chosen(context.load_images(run, data, path), budget)
        asked = _asked(targets.of(images, budget.seed), wanted, images[0].name)
        for row, network in rows.items():
            losses[row] = decoder.losses(network, images, asked, budget)
            print(f"{row}: " + ", ".join(f"{target} {x.mean():.4g}" for target, x in losses[row].items()), flush=True)
    order = (*names, UNTRAINED)
    matrix = Matrix(order, {target: np.stack([losses[row][target] for row in order]) for target in losses[names[0]]})
    summary = matrix.summary() | {"budget": dataclasses.asdict(budget), "data": data, "seconds": time.time() - began}
    folder.mkdir(parents=True, exist_ok=True)
    with files.replacing(folder / "losses.npz") as file:
        np.savez_compressed(file, allow_pickle=False, **matrix.losses)
    files.write(folder / "transfer.json", json.dumps(summary, indent=2) + "\n")
    files.write(folder / "transfer.html", page.html_of(summary))
    print(f"The matrix is in {folder / 'transfer.html'}.")
    return matrix


def _names(workdirs: Sequence[str]) -> tuple[str, ...]:
    """Names of the rows: of the method, or of the folder where two runs are of one method."""
    methods = [load_config(workdir).method.name for workdir in workdirs]
    names = [
        method if methods.count(method) == 1 else f"{method} ({pathlib.Path(workdir).name})"
        for method, workdir in zip(methods, workdirs, strict=True)
    ]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"Two runs would be called {double}: give their folders different names.")
    return tuple(names)


def _chosen(images: Images, budget: Budget) -> Images:
    """Few images of each split, evenly spaced; of pairs of frames both."""
    found = []
    for d, limit in zip(images, (budget.images, budget.test_images), strict=True):
        if d.streamed or not len(d):
            raise UserError(f"transfer needs images of both splits in memory, and {d.name} has not: use other --data.")
        together = 2 if "motion" in d.fields else 1
        groups = len(d) // together
        first = np.linspace(0, groups - 1, max(1, min(limit // together, groups))).astype(int)
        found.append(d[(together * first[:, None] + np.arange(together)).reshape(-1)])
    return found[0], found[1]


def _asked(found: dict[str, targets.Target], wanted: Sequence[str], name: str) -> dict[str, targets.Target]:
    for target in wanted:
        if target not in found:
            raise UserError(f"There is no target '{target}' on {name}. {nearest(target, found)}")
    return {target: found[target] for target in wanted} if wanted else found
