"""The command line from outside: exit statuses, what is written, signals, kills and damaged checkpoints."""

import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny

from ssl_jax import evaluate, report, train
from ssl_jax.run import prepare
from ssl_jax.runtime import processes
from ssl_jax.runtime.errors import TryAgain, UserError, explained
from ssl_jax.workdir import checkpoint
from ssl_jax.workdir import config as stored_config
from ssl_jax.workdir.checkpoint import Checkpoints
from ssl_jax.workdir.log import Log

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = ("--config.epochs=4", "--config.batch_size=128", "--config.model.width=4", "--config.run.save_epochs=1")


@pytest.fixture(scope="module")
def environment():
    # ml_collections loads config files the old way; all other warnings are errors.
    warnings = "error,ignore:the load_module() method:DeprecationWarning"
    return {**os.environ, "PYTHONWARNINGS": warnings}


def command(workdir, *arguments, config="configs/simclr.py:digits"):
    return [sys.executable, "-m", "ssl_jax.main", f"--config={config}", f"--workdir={workdir}", *arguments]


def call(workdir, environment, *arguments, config="configs/simclr.py:digits"):
    return subprocess.run(
        command(workdir, *arguments, config=config), cwd=ROOT, env=environment, capture_output=True, text=True
    )


def final_state(workdir):
    config = evaluate.load_config(str(workdir))
    run = prepare(config, jax.devices()[:1])
    checkpoints = Checkpoints(workdir)
    step, ts = checkpoints.restore(run.init())
    checkpoints.close()
    return step, jax.device_get(ts), run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, environment):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    result = call(workdir, environment, *SMALL)
    assert result.returncode == 0, result.stderr
    return workdir


def entries(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_what_it_should(finished):
    step, _, run = final_state(finished)
    assert step == run.info.total_steps == 40
    names = set().union(*entries(finished))
    wanted = {"loss", "contrastive_top1", "probe_top1", "grad_norm", "lr/default", "images_per_second"}
    assert names >= wanted | {"step", "epoch", "knn/top1", "feature_std", "rankme"}
    assert [e["step"] for e in entries(finished) if "knn/top1" in e] == [0, 40]
    assert list((finished / "tensorboard").iterdir())
    listed = (finished / "parameters.txt").read_text().splitlines()
    assert "backbone/stage1/kernel (3, 3, 1, 4) default decayed" in listed


def test_the_loss_falls(finished):
    losses = [e["loss"] for e in entries(finished) if "loss" in e]
    assert losses[-1] < losses[0] - 0.3


def test_a_second_start_of_a_finished_run_does_nothing(finished, environment):
    before = entries(finished)
    result = call(finished, environment, *SMALL)
    assert result.returncode == 0
    assert entries(finished) == before


def test_compiled_programs_are_kept_unasked(environment, tmp_path):
    environment = {**environment, "SSL_JAX_CACHE": str(tmp_path / "cache")}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    assert call(tmp_path / "run", environment, *SMALL, "--config.run.stop_epoch=1").returncode == 0
    assert any((tmp_path / "cache" / "programs").glob("*/jit_step-*"))


def wait_for_step(workdir, process, step):
    """Returns once the run has logged `step` updates."""
    deadline = time.time() + 240
    while time.time() < deadline and process.poll() is None:
        path = workdir / "metrics.jsonl"
        if path.exists() and any(e.get("step", 0) >= step for e in map(json.loads, path.read_text().splitlines())):
            return
        time.sleep(0.02)
    raise AssertionError(f"the run did not reach step {step}: {process.poll()}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_stopped_run_resumes_bitwise(finished, environment, tmp_path, number):
    workdir = tmp_path / "run"
    arguments = (*SMALL, "--config.run.log_steps=1")
    process = subprocess.Popen(
        command(workdir, *arguments), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(workdir, process, 22)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    if number == signal.SIGTERM and process.returncode == 0:
        pytest.skip("the run ended before the signal came")
    assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL), told
    if number == signal.SIGTERM:
        assert "the same command resumes" in told
    result = call(workdir, environment, *arguments)
    assert result.returncode == 0, result.stderr
    assert "Resuming after update" in result.stderr
    steps = [e["step"] for e in entries(workdir) if "loss" in e]
    assert steps == list(range(1, 41))  # no entry twice, none lost
    tiny.assert_same(final_state(workdir)[1], final_state(finished)[1])


def test_a_run_may_end_early_and_go_on(finished, environment, tmp_path):
    workdir = tmp_path / "run"
    result = call(workdir, environment, *SMALL, "--config.run.stop_epoch=2")
    assert result.returncode == 0, result.stderr
    assert [e["step"] for e in entries(workdir) if "knn/top1" in e] == [0, 20]
    assert final_state(workdir)[0] == 20
    result = call(workdir, environment, *SMALL)
    assert result.returncode == 0, result.stderr
    tiny.assert_same(final_state(workdir)[1], final_state(finished)[1])  # on the same schedule


@pytest.mark.fast
@pytest.mark.parametrize(("kind", "status"), [(UserError, 2), (TryAgain, processes.RESUMABLE)])
def test_errors_end_with_a_sentence_and_their_status(capsys, kind, status):
    @explained
    def main():
        raise kind("What is wrong.")

    assert main() == status and capsys.readouterr().err == "Error: What is wrong.\n"


def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(finished, environment, tmp_path):
    workdir = tmp_path / "run"
    subprocess.run(["cp", "-r", str(finished), str(workdir)], check=True)
    newest = workdir / "checkpoints" / "40"
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    result = call(workdir, environment, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "The checkpoint of step 40 cannot be read" in result.stderr
    assert "Resuming after update 30" in result.stderr
    assert (workdir / "damaged" / "40").is_dir()  # nothing is lost
    assert (workdir / "damaged" / "40.txt").read_text().strip()  # and why
    tiny.assert_same(final_state(workdir)[1], final_state(finished)[1])


@pytest.mark.fast
def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_PAUSE", 0.0)
    for step in (1, 2):
        checkpoints = Checkpoints(tmp_path, keep=2)
        checkpoints.save(step, {"a": jnp.full(3, step)}, {})
        checkpoints.close()
    checkpoints, attempts = Checkpoints(tmp_path, keep=2), []
    restore = checkpoints._manager.restore

    def flaky(step, args):
        attempts.append(step)
        if len(attempts) == 1:
            raise TimeoutError("no answer")
        return restore(step, args=args)

    monkeypatch.setattr(checkpoints._manager, "restore", flaky)
    step, state = checkpoints.restore({"a": jnp.zeros(3, int)})
    checkpoints.close()
    assert (step, attempts, state["a"].tolist()) == (2, [2, 2], [2, 2, 2])
    assert not (tmp_path / "damaged").exists()


def test_a_loss_that_is_no_number_stops_the_run(environment, tmp_path):
    arguments = ("--config.optim.default.learning_rate=1e9", "--config.optim.default.weight_decay=1e9")
    environment = environment | {"PYTHONWARNINGS": f"{environment['PYTHONWARNINGS']},ignore:overflow:RuntimeWarning"}
    result = call(tmp_path / "run", environment, *SMALL, *arguments)
    assert result.returncode == 3, result.stderr
    assert re.search(r"The (loss|grad_norm|weights) of update [2-5] became NaN or infinite", result.stderr)
    assert "Traceback" not in result.stderr
    assert not [p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]


@pytest.mark.parametrize(
    ("arguments", "config", "words"),
    [
        (("--config.batch_sise=3",), "configs/simclr.py:digits", "batch_size"),
        ((), "configs/simclr.py:digit", "Did you mean 'digits'"),
        (
            ("--config.lr=3",),
            "configs/simclr.py:digits",
            "no field config.lr in configs/simclr.py:digits. Known: a",
        ),
        (("--config.learning_rate=3",), "configs/simclr.py:digits", "mean 'config.optim.default.learning_rate'?"),
        (
            ("--config.data.sise=3",),
            "configs/simclr.py:digits",
            "config.data.sise in configs/simclr.py:digits. Did you mean 'size'?",
        ),
        (("--config.seed.x=3",), "configs/simclr.py:digits", "config.seed is a value, no group of fields"),
        (("--config.method.view2.size=6",), "configs/simclr.py:digits", "set config.method.concat_views=False"),
        (("--config.method.view1.area=0.5",), "configs/simclr.py:digits", "two ends of a range"),
        (("--config.method.update_target=befor",), "configs/byol.py:digits", "Did you mean 'before'"),
        ((), "configs/simclear.py:digits", "configs/simclr.py"),
        (("--config", "configs/simclear.py:digits"), "configs/simclr.py:digits", "configs/simclr.py"),
        ((), "simclear:digits", "Did you mean 'simclr'"),
        ((), "simclr:digit", "Did you mean 'digits'"),
        (("--config.lr=3",), "simclr:digits", "no field config.lr in simclr:digits. Known: accum"),
        ((), "ssl_jax/losses.py:digits", "it has no function get_config"),
        ((), "README.md", "is no config file, whose name ends in .py. Without a file: --config=METHOD:PRESET"),
        (("--config.epochs=many",), "configs/simclr.py:digits", "epochs"),
        (("--config.method=byol",), "simclr:digits", "another method is another config, as --config=byol:cifar10"),
        (("--config.data=cifar10",), "simclr:digits", "config.data is a group of fields and has no value"),
        (("--config.data.source=folder:nowhere",), "configs/simclr.py:digits", "nowhere"),
        (("--workdri=x",), "configs/simclr.py:digits", "workdir"),
    ],
)
def test_mistakes_on_the_command_line(environment, tmp_path, arguments, config, words):
    result = call(tmp_path / "run", environment, *arguments, config=config)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 3


def test_help_is_useful(environment):
    result = subprocess.run(
        [sys.executable, "-m", "ssl_jax.main", "--help"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0
    for words in ("--config", "--workdir", "configs/simclr.py:cifar10", "resumes"):
        assert words in result.stdout


def test_evaluate_and_report(finished, capsys):
    assert evaluate.main([f"--workdir={finished}"]) == 0
    printed = capsys.readouterr().out
    assert "labels per class" in printed and "linear probe" in printed
    results = json.loads((finished / "results.json").read_text())
    for name in ("knn/top1", "knn/top1_untrained", "linear/top1", "linear/top1_untrained"):
        assert 0.2 < results[name] <= 1
    for count in ("1", "5", "10", "all"):
        for row in ("pixels", "pca", "untrained", "pretrained"):
            assert 0.1 < results[f"few_label/{count}/{row}"] <= 1
    assert results["seed"] == 0 and results["config"]["batch_size"] == 128
    assert {"versions", "device", "evaluation_seconds", "step"} <= set(results)
    assert report.main([f"--workdir={finished}"]) == 0
    page = (finished / "report.html").read_text()
    assert page.count("<svg") >= 4 and "data:image/png;base64" in page
    assert not re.search(r"""(src|href)=["']https?:""", page)  # nothing to fetch; links into the page only


def test_evaluate_says_what_is_missing(tmp_path, capsys):
    assert evaluate.main([f"--workdir={tmp_path}"]) == 2
    assert "There is no run in" in capsys.readouterr().err
    stored_config.store(str(tmp_path), tiny.config("simclr"))
    assert evaluate.main([f"--workdir={tmp_path}"]) == 2
    assert "let the run write one first" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["evaluate", "report"])
def test_evaluate_and_report_are_commands(finished, environment, tmp_path, module):
    more = ["--evals=knn"] if module == "evaluate" else []
    for workdir, status in ((finished, 0), (tmp_path, 2)):
        command = [sys.executable, "-m", f"ssl_jax.{module}", f"--workdir={workdir}", *more]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert result.returncode == status, result.stderr
        assert "Traceback" not in result.stderr
    assert "There is no run in" in result.stderr


def test_unlabelled_images_train_and_say_what_they_cannot_be_asked(tmp_path, capsys):
    """A flat folder of pictures: no labels, no test split."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    config = tiny.config(
        "rotation",
        **{"data.source": f"folder:{tmp_path / 'images'}", "data.size": 8, "batch_size": 8, "run.eval_epochs": 1.0},
    )
    for name, value in (("brightness", 0.0), ("contrast", 0.0), ("mean", (0.5,)), ("std", (0.25,))):
        config.method.view[name] = value
    handler = signal.getsignal(signal.SIGINT)
    train.train(config, str(tmp_path / "run"))
    logged = entries(tmp_path / "run")
    assert any("feature_std" in e for e in logged)
    assert signal.getsignal(signal.SIGINT) is handler  # given back after training
    assert not any("knn/top1" in e or "probe_top1" in e for e in logged)
    assert evaluate.main([f"--workdir={tmp_path / 'run'}"]) == 0
    assert "lacks labels: only health, pretext can be measured" in capsys.readouterr().out
    assert "health/rankme" in json.loads((tmp_path / "run" / "results.json").read_text())
    assert evaluate.main([f"--workdir={tmp_path / 'run'}", "--evals=health,knn"]) == 2
    assert "needs labels and a test split" in capsys.readouterr().err


def test_a_workdir_is_not_claimed_by_a_command_that_failed(environment, tmp_path):
    workdir = tmp_path / "run"
    assert call(workdir, environment, *SMALL, "--config.batch_size=100000").returncode == 2
    assert not workdir.exists()


@pytest.mark.fast
def test_a_run_that_made_no_update_leaves_its_workdir_free(tmp_path):
    """Some mistakes show only when the step is compiled or evaluated; the command put right may follow."""
    one, other = tiny.config("simclr"), tiny.config("simclr", batch_size=8)
    stored_config.store(str(tmp_path), one)
    curve = tmp_path / "metrics.jsonl"
    curve.write_text('{"step": 0, "epoch": 0.0, "knn/top1": 0.5}\n')
    stored_config.check(str(tmp_path), one)
    assert curve.exists()
    stored_config.check(str(tmp_path), other)
    assert not curve.exists()  # the network before training was another
    curve.write_text('{"step": 0, "epoch": 0.0}\n{"step": 10, "epoch": 0.1}\n')
    with pytest.raises(UserError, match="batch_size: 16 there, 8 now"):
        stored_config.check(str(tmp_path), other)
    watched = one.copy_and_resolve_references()
    watched.eval.knn_k = 7  # which changes no update
    stored_config.check(str(tmp_path), watched)
    curve.unlink()
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a run with another config"):
        stored_config.check(str(tmp_path), other)


@pytest.mark.fast
def test_the_newest_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, {"x": np.full(2, step)}, {})
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [3, 4]


@pytest.mark.fast
def test_a_terminal_shows_a_bar(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    log = Log(str(tmp_path), 0, 40, 128, 10)
    time.sleep(1.2)
    for step in range(1, 21):
        log.advance(step, 1.25)
    values = {"loss": 1.25, "images_per_second": 64.0, "input_wait": 0.0, "lr/default": 0.3}
    log.write(20, values, show={"kNN": "31.0%"})
    log.advance(21, 1.125)
    log.close()
    shown = sys.stderr.getvalue()
    assert "compiling, 1 s" in shown
    last = shown.split("\r")[-1]
    assert last.startswith("epoch 3/4, step 21/40") and "kNN 31.0% (epoch 2)" in last and "loss 1.1250" in last
    assert "lr 0.3" in last and "64 img/s" in last
    assert "0:00:00 left" in last  # compilation is no part of the pace
    assert "epoch 2.00" not in shown  # lines are for files
