"""Where the numbers of a run go besides `metrics.jsonl`: TensorBoard, Weights & Biases and MLflow.

`config.run.loggers` names them. A run that is resumed or evaluated goes on in the tracker's run of its first start,
whose identity `trackers.json` in the workdir keeps.
"""

from collections.abc import Callable, Mapping
import importlib
import json
import logging
import os
import re
import time
from typing import Any, Protocol
import uuid

from etils import epath

from ssl_jax.runtime import files, processes
from ssl_jax.runtime.errors import UserError, nearest, no_writing
from ssl_jax.workdir.results import numbers

logger = logging.getLogger("ssl_jax")

_NAMES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow"}
_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
_PARAMS = 100  # that MLflow takes at once
_LONGEST = 500  # characters of a value that all versions of MLflow take


def names(loggers: str) -> tuple[str, ...]:
    """The trackers in a value of `config.run.loggers`, whose packages are all installed.

    Raises:
      UserError: for an unknown name, or a package that is missing.
    """
    found = tuple(dict.fromkeys(part for part in re.split(r"[,\s]+", loggers) if part))
    for name in found:
        if name not in _NAMES:
            raise UserError(f"config.run.loggers names '{name}'. {nearest(name, _NAMES)}")
        _package(name)
    return found


def _package(name: str) -> Any:
    module = _MODULES[name]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(
            f"config.run.loggers names {name}, whose package is not installed: pip install 'ssl_jax[{name}]', or leave "
            f"{name} out."
        ) from error


class _Tracker(Protocol):
    """A place for the numbers of one run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records values after `step` updates."""

    def conclude(self, step: int, values: Mapping[str, float]) -> None:
        """Records what evaluation found of the network after `step` updates."""

    def close(self, failed: bool) -> None:
        """Ends this start of the run."""


class Trackers:
    """All trackers of one run. One that fails later on is left out with a warning: the run is worth more.

    Args:
      workdir: of the run.
      config: of the run.
      start: updates done before; None for what comes after training.

    Raises:
      UserError: a package is missing, or a tracker does not start.
    """

    def __init__(self, workdir: str, config: Any, start: int | None = None) -> None:
        self._open: dict[str, _Tracker] = {}
        plain = json.loads(json.dumps(config.to_dict()))
        make: dict[str, Callable[..., _Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _MLflow}
        for name in names(config.run.loggers):
            try:
                self._open[name] = make[name](workdir, plain, start)
            except Exception as error:
                self.close(failed=True)
                if no_writing(error):
                    raise
                raise UserError(
                    f"config.run.loggers names {name}, and {_NAMES[name]} does not start "
                    f"({' '.join(str(error).split())[:200]}): see docs/trackers.md, or leave {name} out."
                ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records values after `step` updates."""
        self._each(lambda tracker: tracker.write(step, values))

    def conclude(self, step: int, values: Mapping[str, float]) -> None:
        """Records what evaluation found of the network after `step` updates, each under `evaluation/`."""
        named = {f"evaluation/{name}": value for name, value in values.items()}
        self._each(lambda tracker: tracker.conclude(step, named))

    def close(self, failed: bool = False) -> None:
        """Ends this start of the run in all trackers."""
        self._each(lambda tracker: tracker.close(failed))

    def _each(self, act: Callable[[_Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                act(tracker)
            except Exception as error:
                if no_writing(error):
                    raise
                del self._open[name]
                logger.warning("%s takes no more numbers (%s); metrics.jsonl has them all.", _NAMES[name], error)


def conclude(workdir: str, config: Any, results: Mapping[str, Any]) -> None:
    """Gives the results of an evaluation to the run's trackers; where one does not start, says so and does without.

    Args:
      workdir: of the run.
      config: of the run.
      results: as `results.json` has them.
    """
    if not processes.first():
        return
    try:
        tracking = Trackers(workdir, config)
    except UserError as error:
        logger.warning("The results are in results.json alone. %s", error)
        return
    tracking.conclude(results["step"], {r.name: float(r.value) for r in numbers(dict(results))})
    tracking.close()


class _TensorBoard:
    def __init__(self, workdir: str, config: dict[str, Any], start: int | None) -> None:
        purge = {} if start is None else {"purge_step": start + 1}
        self._writer = _package("tensorboard").SummaryWriter(str(epath.Path(workdir) / "tensorboard"), **purge)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    conclude = write

    def close(self, failed: bool) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, workdir: str, config: dict[str, Any], start: int | None) -> None:
        wandb, kept = _package("wandb"), _kept(workdir)
        identity = kept.get("wandb") or uuid.uuid4().hex[:8]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ssl_jax"),
            name=epath.Path(workdir).name,
            id=identity,
            resume="allow",
            dir=None if "://" in workdir else workdir,
            config=config,
            allow_val_change=True,  # what stands under config.run may differ between starts
            settings=wandb.Settings(console="off"),  # its capture breaks the progress bar
        )
        # Its own step cannot go back, as a resumed run does to its checkpoint.
        self._run.define_metric("*", step_metric="step")
        _keep(workdir, kept | {"wandb": identity})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def conclude(self, step: int, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _MLflow:
    def __init__(self, workdir: str, config: dict[str, Any], start: int | None) -> None:
        mlflow, kept = _package("mlflow"), _kept(workdir)
        stored = kept.get("mlflow", {})
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else stored.get("uri") or mlflow.get_tracking_uri()
        self._mlflow, self._client = mlflow, mlflow.MlflowClient(own)
        self._run = self._resumed(stored.get("run")) or self._new(epath.Path(workdir).name, config)
        _keep(workdir, kept | {"mlflow": {"run": self._run, **({"uri": own} if own else {})}})

    def _resumed(self, run: str | None) -> str | None:
        """The run of an earlier start, unless it is on another server or was deleted."""
        if run is None:
            return None
        try:
            if self._client.get_run(run).info.lifecycle_stage == "deleted":
                return None
        except self._mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        self._client.update_run(run, status="RUNNING")
        return run

    def _new(self, name: str, config: dict[str, Any]) -> str:
        experiment = self._client.get_experiment_by_name(_experiment())
        number = experiment.experiment_id if experiment else self._client.create_experiment(_experiment())
        run = self._client.create_run(number, run_name=name).info.run_id
        params = [self._mlflow.entities.Param(key, str(value)[:_LONGEST]) for key, value in _flat(config, "")]
        for first in range(0, len(params), _PARAMS):
            self._client.log_batch(run, params=params[first : first + _PARAMS])
        return run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now, metric = int(1000 * time.time()), self._mlflow.entities.Metric
        told = [metric(re.sub(r"[^\w./ :-]", "_", name), float(x), now, step) for name, x in values.items()]
        self._client.log_batch(self._run, metrics=told)

    conclude = write

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _experiment() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "ssl_jax")


def _flat(config: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    parts = [_flat(x, f"{prefix}{n}.") if isinstance(x, dict) else [(prefix + n, x)] for n, x in config.items()]
    return [item for part in parts for item in part]


def _kept(workdir: str) -> dict[str, Any]:
    """What `trackers.json` holds."""
    path = epath.Path(workdir) / "trackers.json"
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        logger.warning("%s is damaged; the trackers begin new runs.", path)
        return {}
    return found if isinstance(found, dict) else {}


def _keep(workdir: str, identities: dict[str, Any]) -> None:
    files.write(epath.Path(workdir) / "trackers.json", json.dumps(identities) + "\n")
