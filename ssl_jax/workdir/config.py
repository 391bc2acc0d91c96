"""The config of a run as its workdir holds it: `config.json`."""

from collections.abc import Iterator
import json
import logging
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from ssl_jax import recipes
from ssl_jax.runtime import files, processes
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir import checkpoint

logger = logging.getLogger("ssl_jax")

# Parts that may differ between the starts of one run: they change neither the weights nor the images.
_FREE = ("run", "mapping", "mesh", "eval", "data.workers")
# Left unset by a start, it is what the images say, which was stored; their record tells where that has changed.
_FOUND = "data.range"


def plain(config: Any) -> dict[str, Any]:
    """The config as JSON gives it back."""
    return json.loads(json.dumps(config.to_dict()))


def load(workdir: str) -> ConfigDict:
    """Reads the config of a run; fields that an earlier version did not have yet take the preset's value, with a note.

    Where `config.json` is damaged, that of the newest checkpoint stands in for it.

    Raises:
      UserError: if the workdir holds none.
    """
    path = epath.Path(workdir) / "config.json"
    stored = _read(workdir)
    if stored is None:
        stored = checkpoint.stored(workdir, "config")
        if stored is None:
            raise UserError(
                f"There is no run in {workdir} (no {path} that can be read): make one with ssl_jax train METHOD:PRESET "
                f"{workdir}."
            )
        logger.warning("%s is lost or damaged; the config is that of the newest checkpoint.", path)
    return _completed(stored, workdir)


def _completed(stored: dict[str, Any], workdir: str) -> ConfigDict:
    try:
        added = _complete(stored)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{workdir}/config.json is no config of a run (it lacks {error}): move it away.") from error
    if added:
        logger.warning(
            "%s/config.json is of an earlier version; new fields take their defaults: %s.", workdir, ", ".join(added)
        )
    return ConfigDict(stored)


def _read(workdir: str) -> dict[str, Any] | None:
    """What `config.json` holds; None where there is none, or it is damaged or of something else."""
    try:
        stored = json.loads((epath.Path(workdir) / "config.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    parts = ("method", "data", "model", "optim")
    good = isinstance(stored, dict) and all(isinstance(stored.get(part), dict) for part in parts)
    return stored if good and isinstance(stored["method"].get("name"), str) else None


def check(workdir: str, config: Any) -> int | None:
    """Makes sure that a workdir is new or holds a run with this config, or a run that never made an update.

    The config that counts is the one in the newest checkpoint; without checkpoints, that in `config.json`.

    Returns:
      None, or the epochs that the run had where it is to have more now, which only a finished run may.

    Raises:
      UserError: if the workdir holds a run with another config; names the fields.
    """
    folder, there = epath.Path(workdir), _read(workdir)
    if there is None:
        _set_aside(folder / "config.json")
    there = checkpoint.stored(workdir, "config") or there
    if there is None:
        return None
    found, wanted = plain(_completed(there, workdir)), plain(config)
    changed = [c for c in _differences(found, wanted) if not _is_free(c)]
    if changed and not has_trained(folder):
        (folder / "metrics.jsonl").unlink(missing_ok=True)  # of the network before training
    elif [c.partition(":")[0] for c in changed] == ["epochs"] and wanted["epochs"] > found["epochs"]:
        return found["epochs"]
    elif changed:
        changed.sort(key=lambda change: not change.startswith("method.name:"))  # which explains most of the others
        raise UserError(
            f"{workdir} holds a run with another config ({'; '.join(changed[:5])}): choose another --workdir, or "
            "repeat the command of that run to resume it."
        )
    return None


def _is_free(change: str) -> bool:
    if change.startswith(f"{_FOUND}: ") and change.endswith(", None now"):
        return True
    return f"{change.partition(':')[0]}.".startswith(tuple(f"{name}." for name in _FREE))


def _set_aside(path: epath.Path) -> None:
    """Keeps a damaged file under another name, so that nothing is lost by writing it anew."""
    if path.exists() and processes.first():
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        logger.warning("%s was damaged: it is %s now, and made anew.", path, aside.name)


def has_trained(folder: epath.Path) -> bool:
    """Whether a run has left more than its start."""
    checkpoints, curve = folder / "checkpoints", folder / "metrics.jsonl"
    if checkpoints.exists() and any(checkpoints.iterdir()):
        return True
    # A line that is cut off was being written by a run.
    return curve.exists() and not all(b'"step": 0,' in line for line in curve.read_bytes().splitlines())


def store(workdir: str, config: Any) -> None:
    """Writes the config, and makes the workdir if there is none.

    Raises:
      UserError: if it cannot be written.
    """
    folder = epath.Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write(folder / "config.json", json.dumps(plain(config), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"The workdir {workdir} cannot be written ({error.strerror}): choose another.") from error


def _differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(set(found) | set(wanted))
        parts = [_differences(found.get(k), wanted.get(k), f"{prefix}.{k}" if prefix else k) for k in keys]
        return [d for part in parts for d in part]
    return [] if found == wanted else [f"{prefix}: {found} there, {wanted} now"]


# What a run of an earlier version, which did not have the field, did; elsewhere presets did not change with the field.
_BEFORE = {"pillow": False, "holdout": 0.0}


def _complete(stored: dict[str, Any]) -> list[str]:
    """Adds the fields that are missing, as the nearest preset of the method has them; returns their names."""
    nearest = min(_presets(stored["method"]), key=lambda preset: len(_differences(stored, preset)))
    # Which groups of parameters have an optimiser of their own is the run's choice.
    nearest["optim"] = {label: nearest["optim"].get(label, nearest["optim"]["default"]) for label in stored["optim"]}
    return _fill(stored, nearest)


def _presets(method: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The presets of a run's method, for the tasks or the learner of a run that has any."""
    parts = [*method.get("tasks", {}), *([method["learner"]["name"]] if method.get("learner") else [])]
    tasks = "".join(f"+{name}" for name in parts)
    for preset in recipes.presets(method["name"]):
        try:
            yield plain(recipes.get_config(method["name"], preset + tasks))
        except UserError:
            continue  # not every task has every preset


def _fill(stored: dict[str, Any], reference: dict[str, Any], prefix: str = "") -> list[str]:
    added = []
    for name, value in reference.items():
        if name not in stored:
            stored[name] = _BEFORE.get(name, value)
            added.append(f"config.{prefix}{name} = {stored[name]}")
        elif isinstance(value, dict) and isinstance(stored[name], dict):
            added += _fill(stored[name], value, f"{prefix}{name}.")
    return added
