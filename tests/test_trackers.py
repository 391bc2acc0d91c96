"""Trackers: chosen by name, one run over all starts, config and closing results in each, offline with real packages."""

import json
import logging
import sys
import types

import pytest
import tiny

from ssl_jax import train
from ssl_jax.evals import run as evals_run
from ssl_jax.runtime import processes
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir import trackers
from ssl_jax.workdir.log import Log

RESULTS = {"step": 4, "knn/top1": 0.5, "retrieval/recall@5": 0.75, "device": "1 x cpu"}


def config(loggers, **changes):
    return tiny.config("simclr", **{"run.loggers": loggers, **changes})


@pytest.fixture
def fake(monkeypatch):
    """A module `wandb` that notes what it is told."""
    module = types.ModuleType("wandb")
    module.said, module.fails = [], set()

    def note(name):
        def called(*args, **kwargs):
            if name in module.fails:
                raise ConnectionError("the server is away")
            module.said.append((name, args, kwargs))

        return called

    def init(**settings):
        note("init")(**settings)
        summary = types.SimpleNamespace(update=note("summary"))
        parts = {name: note(name) for name in ("log", "finish", "define_metric")}
        return types.SimpleNamespace(summary=summary, **parts)

    module.init, module.Settings = init, dict
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.mark.fast
def test_names_are_separated_by_commas_and_checked(monkeypatch):
    assert trackers.names("") == ()
    assert trackers.names("tensorboard, tensorboard") == ("tensorboard",)
    with pytest.raises(UserError, match=r"names 'tensorbord'\. Did you mean 'tensorboard'\?"):
        trackers.names("tensorbord")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"not installed: pip install 'ssl_jax\[mlflow\]', or leave mlflow out\."):
        trackers.names("mlflow")


@pytest.mark.fast
def test_a_missing_package_ends_the_command_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install"):
        train.train(config("wandb"), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.fast
def test_all_starts_of_a_run_are_one_run_of_the_tracker(fake, tmp_path):
    for start in (0, 2):
        tracking = trackers.Trackers(str(tmp_path), config("wandb"), start)
        tracking.write(start + 1, {"loss": 1.5})
        tracking.close(failed=start == 0)
    trackers.conclude(str(tmp_path), config("wandb"), RESULTS)
    starts = [settings for name, _, settings in fake.said if name == "init"]
    assert len({s["id"] for s in starts}) == 1 and len(starts) == 3
    assert starts[0]["name"] == tmp_path.name and starts[0]["dir"] == str(tmp_path)
    assert starts[0]["config"]["method"]["name"] == "simclr" and starts[0]["config"]["seed"] == 0
    assert [args[0] for name, args, _ in fake.said if name == "log"] == [
        {"step": 1, "loss": 1.5},
        {"step": 3, "loss": 1.5},
    ]
    assert [args[0] for name, args, _ in fake.said if name == "summary"] == [
        {"evaluation/knn/top1": 0.5, "evaluation/retrieval/recall@5": 0.75}
    ]
    assert [settings["exit_code"] for name, _, settings in fake.said if name == "finish"] == [1, 0, 0]


@pytest.mark.fast
def test_a_tracker_that_does_not_start_is_an_error_and_costs_no_results(fake, tmp_path, caplog):
    fake.fails.add("init")
    with pytest.raises(UserError, match=r"Weights & Biases does not start \(the server is away\)"):
        trackers.Trackers(str(tmp_path), config("wandb"), 0)
    trackers.conclude(str(tmp_path), config("wandb"), RESULTS)
    assert "The results are in results.json alone" in caplog.text


@pytest.mark.fast
def test_a_tracker_that_fails_later_is_left_out_and_the_others_go_on(fake, tmp_path, caplog):
    fake.fails.add("log")
    tracking = trackers.Trackers(str(tmp_path), config("wandb,tensorboard"), 0)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            tracking.write(step, {"loss": 1.0})
    tracking.close()
    assert caplog.text.count("Weights & Biases takes no more numbers (the server is away)") == 1
    assert b"loss" in next((tmp_path / "tensorboard").iterdir()).read_bytes()


@pytest.mark.fast
def test_a_full_disk_is_no_failure_of_a_tracker(fake, tmp_path):
    tracking = trackers.Trackers(str(tmp_path), config("wandb"), 0)
    with pytest.raises(OSError, match="No space"):
        tracking._each(lambda tracker: (_ for _ in ()).throw(OSError(28, "No space left on device")))


@pytest.mark.fast
def test_a_damaged_record_of_runs_begins_new_ones(fake, tmp_path, caplog):
    (tmp_path / "trackers.json").write_text('{"wan')
    trackers.Trackers(str(tmp_path), config("wandb"), 0).close()
    assert "trackers.json is damaged" in caplog.text
    assert json.loads((tmp_path / "trackers.json").read_text())["wandb"] == fake.said[0][2]["id"]


@pytest.mark.fast
def test_mlflow_has_one_run_with_the_config_and_all_numbers(tmp_path, monkeypatch):
    """With a stand-in for the package; the test below has the package."""
    said, record = [], types.SimpleNamespace

    class Client:
        def __init__(self, uri):
            self.uri = uri

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            return f"the experiment {name}"

        def create_run(self, experiment, run_name):
            said.append(("run", experiment, run_name))
            return record(info=record(run_id="one"))

        def get_run(self, run):
            return record(info=record(lifecycle_stage="active"))

        def update_run(self, run, status):
            said.append((status, run))

        def log_batch(self, run, metrics=(), params=()):
            assert len(params) <= 100  # what a server takes at once
            said.extend(("metric", run, name, value, step) for name, value, _, step in metrics)
            said.extend(("param", run, *param) for param in params)

        def set_terminated(self, run, status):
            said.append((status, run))

    entities = record(Param=lambda *given: given, Metric=lambda *given: given)
    module = record(MlflowClient=Client, entities=entities, get_tracking_uri=lambda: "here", MlflowException=OSError)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    started_twice(tmp_path, "mlflow")
    assert [x for x in said if x[0] == "run"] == [("run", "the experiment ssl_jax", tmp_path.name)]
    assert ("param", "one", "method.name", "simclr") in said
    losses = [x for x in said if x[:3] == ("metric", "one", "loss")]
    assert [x[3:] for x in losses] == [(8.25 / step, step) for step in (1, 2, 3, 4)]
    assert ("metric", "one", "evaluation/retrieval/recall_5", 0.75, 4) in said
    assert [x[0] for x in said if x[1:] == ("one",)] == ["FINISHED", "RUNNING", "FINISHED", "RUNNING", "FINISHED"]
    assert json.loads((tmp_path / "trackers.json").read_text())["mlflow"] == {"run": "one", "uri": "here"}


def test_training_and_evaluation_tell_the_first_process_alone(fake, tmp_path, monkeypatch):
    """The loop through all its parts; a second process starts no tracker."""
    changes = {"epochs": 1, "batch_size": 256, "run.eval_epochs": 1.0}
    train.train(config("wandb", **changes), str(tmp_path / "run"))
    names = {name for call, args, _ in fake.said if call == "log" for name in args[0]}
    assert {"step", "epoch", "loss", "knn/top1", "images_per_second"} <= names
    evals_run.evaluate(str(tmp_path / "run"), ["knn"])
    (found,) = [args[0] for call, args, _ in fake.said if call == "summary"]
    assert 0 < found["evaluation/knn/top1"] <= 1 and "evaluation/knn/top1_untrained" in found
    assert not (tmp_path / "run" / "tensorboard").exists()
    fake.said.clear()
    monkeypatch.setattr(processes, "first", lambda: False)
    trackers.conclude(str(tmp_path / "run"), config("wandb"), RESULTS)
    log = Log(str(tmp_path / "run"), 0, 4, 8, 2, None)
    log.write(1, {"loss": 1.0})
    log.close()
    assert fake.said == []


def started_twice(folder, loggers):
    """Two starts of a run, and what its evaluation found."""
    for start in (0, 2):
        tracking = trackers.Trackers(str(folder), config(loggers, **{"run.keep": 3 + start}), start)
        for step in (start + 1, start + 2):
            tracking.write(step, {"loss": 8.25 / step, "knn/top1": 0.5})
        tracking.close()
    trackers.conclude(str(folder), config(loggers), RESULTS)


@pytest.mark.filterwarnings("ignore")
def test_real_weights_and_biases_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    started_twice(tmp_path, "wandb")
    wandb.teardown()  # its own process writes the files
    identity = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 3 and {f.name for f in files} == {f"run-{identity}.wandb"}
    told = [f.read_bytes() for f in files]
    assert all(b"knn/top1" in x and b"loss" in x for x in told[:2]) and b"8.25" in told[0]
    assert b"temperature" in told[0]  # a field of the config
    assert b"evaluation/retrieval/recall@5" in told[2]


@pytest.mark.filterwarnings("ignore")
def test_real_weights_and_biases_without_a_login(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"does not start \(.*wandb login.*see docs/trackers.md"):
        trackers.Trackers(str(tmp_path), config("wandb"), 0)


@pytest.mark.filterwarnings("ignore")
def test_real_mlflow_in_files(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    started_twice(tmp_path, "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("ssl_jax").experiment_id])
    assert run.info.run_name == tmp_path.name and run.info.status == "FINISHED"
    assert run.data.params["method.name"] == "simclr" and run.data.params["run.keep"] == "3"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [
        (step, 8.25 / step) for step in (1, 2, 3, 4)
    ]
    assert run.data.metrics["evaluation/knn/top1"] == 0.5 and run.data.metrics["evaluation/retrieval/recall_5"] == 0.75
    client.delete_run(run.info.run_id)
    trackers.Trackers(str(tmp_path), config("mlflow"), 4).close()
    (other,) = client.search_runs([run.info.experiment_id])
    assert other.info.run_id != run.info.run_id
