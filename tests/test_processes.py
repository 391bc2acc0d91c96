"""Several processes: what they compute is what one computes, and they stop, fail and resume together."""

import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pair
from PIL import Image
import pytest
import tiny

from ssl_jax.runtime import processes
from ssl_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
METHODS = ("simclr", "byol", "mocov2", "swav", "barlow_twins", "deepcluster")  # the last has a bank in shares


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def two(arguments, **settings):
    """Starts two processes of four devices each."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        **settings,
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**environment, "JAX_PROCESS_ID": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


def ends(pair_, seconds):
    """Exit statuses and what was told, of processes that end within some time."""
    deadline = time.time() + seconds
    try:
        told = [p.communicate(timeout=max(1, deadline - time.time()))[1] for p in pair_]
    finally:
        for p in pair_:
            p.kill()
    return [p.returncode for p in pair_], told


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    (folder / "images").mkdir()
    for row in range(24):
        Image.fromarray(np.full((8, 8, 3), row, np.uint8)).save(folder / "images" / f"{row:02d}.png")
    status, told = ends(two(["tests/pair.py", str(folder), *METHODS]), 900)
    assert status == [0, 0], "\n".join(told)
    return folder


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_compute_what_one_does(computed, name, tmp_path):
    run, images, ts = pair.updates(name)
    with np.load(computed / f"{name}.npz") as found:
        tree = jax.tree.map(np.asarray, ts)
        paths = jax.tree_util.tree_leaves_with_path(tree)
        others = jax.tree.unflatten(jax.tree.structure(tree), [found[jax.tree_util.keystr(path)] for path, _ in paths])
    tiny.assert_close(others, tree, 1e-5)
    if name == "deepcluster":
        found_there = json.loads((computed / "evaluated.json").read_text())
        assert found_there == pytest.approx(pair.evaluated(run, ts, tmp_path), rel=1e-3)
        assert list((computed / "features").glob("pretrained-*.npz"))
    if name == METHODS[0]:
        rest = json.loads((computed / "rest.json").read_text())
        message = rest.pop("diverged")
        assert "do not see the same training images of digits" in rest.pop("strangers")
        assert rest == pytest.approx(pair.others(run, images, ts), rel=1e-3)
        assert rest["rows"] == 0
        assert "Here processes 0 and 1 no longer hold the same ['b']" in message


SMALL = ("--config.epochs=4", "--config.batch_size=128", "--config.model.width=4", "--config.run.save_epochs=0.5")
PROGRAM = (
    "from ssl_jax import main; from ssl_jax.runtime import processes; "
    "processes.HEARTBEAT = 10; processes.run(main.main)"
)


def entries(workdir):
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def wait_for_step(workdir, pair_, step):
    deadline = time.time() + 400
    while time.time() < deadline and all(p.poll() is None for p in pair_):
        if any(e["step"] >= step for e in entries(workdir)):
            return
        time.sleep(0.02)
    raise AssertionError(f"the run did not reach update {step}: {ends(pair_, 1)}")


def test_signals_and_losses_stop_all_and_a_restart_resumes(tmp_path):
    workdir = tmp_path / "run"
    command = ["-c", PROGRAM, "--config=configs/rotation.py:digits", f"--workdir={workdir}", *SMALL]
    command += ["--config.run.log_steps=1", "--config.run.eval_epochs=1"]
    settings = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    pair_ = two(command, **settings)
    wait_for_step(workdir, pair_, 3)
    pair_[1].send_signal(signal.SIGTERM)  # the one that writes nothing
    status, told = ends(pair_, 120)
    assert status == [75, 75], told
    stops = [re.search(r"Stopped by SIGTERM after update (\d+)", text) for text in told]
    assert all(stops), told
    assert stops[0][1] == stops[1][1]
    assert "update" not in told[1].replace(stops[1][0], "")  # nothing else from the second process

    for victim in (1, 0):
        before = max(e["step"] for e in entries(workdir))
        pair_ = two(command, **settings)
        wait_for_step(workdir, pair_, before + 3)
        pair_[victim].kill()
        began = time.time()
        status, told = ends(pair_, 120)
        assert time.time() - began < 60
        assert status[victim] == -signal.SIGKILL
        assert status[1 - victim] == 75, told
        assert "Another process of this run was lost; the same command resumes" in told[1 - victim]

    status, told = ends(two(command, **settings), 400)
    assert status == [0, 0], "\n".join(told)
    assert "Resuming after update" in told[0]
    assert [e["step"] for e in entries(workdir) if "loss" in e] == list(range(1, 41))
    assert [e["step"] for e in entries(workdir) if "knn/top1" in e] == [0, 10, 20, 30, 40]


# --- who is one of several


@pytest.fixture
def environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(
            ("SLURM_", "KUBERNETES_", "JOB_", "TPU_", "MEGASCALE_", "JAX_COORD", "JAX_NUM_PR", "JAX_PROC")
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")

    def tell(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return tell


@pytest.fixture
def started(monkeypatch):
    """The arguments with which JAX was asked to start, instead of starting."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(processes, "_make_aborts_resumable", lambda: None)
    return calls


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.fast
@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({**SLURM, "SLURM_NTASKS": "1"}, False),
        ({**SLURM, "SLURM_NTASKS": "2"}, True),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, False),  # the batch shell, not a step
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JAX_NUM_PROCESSES": "1", "JOB_COMPLETION_INDEX": "0"}, False),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, True),
    ],
)
def test_processes_start_where_there_are_several(environment, started, variables, several):
    environment(**variables)
    processes.start()
    assert len(started) == several


@pytest.mark.fast
def test_flags_come_before_the_environment(environment, started):
    environment(JAX_COORDINATOR_ADDRESS="a:1", JAX_NUM_PROCESSES="4", JAX_PROCESS_ID="3")
    processes.start("b:2", 2, 0)
    assert started[0]["coordinator_address"] == "b:2"
    assert (started[0]["num_processes"], started[0]["process_id"]) == (2, 0)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ((None, 2, None), {}, "not enough to find the others"),
        (("a:1", 2, 2), {}, "not enough to find the others"),
        ((None, 2, 0), {}, "not enough to find the others"),
        ((), {"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID is 'first', not a number"),
        ((), {"KUBERNETES_SERVICE_HOST": "a", "JOB_COMPLETION_INDEX": "0"}, "pip install -e .\\[k8s\\]"),
    ],
)
def test_mistakes_in_who_is_who_are_explained(environment, started, monkeypatch, arguments, variables, words):
    environment(**variables)
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=words):
        processes.start(*arguments)
    assert not started


@pytest.mark.fast
def test_tpu_machines_are_counted_as_kubernetes_tells_them(environment):
    environment(TPU_WORKER_HOSTNAMES="a,b,c,d")
    assert processes._tpu_machines() == 4
    environment(MEGASCALE_NUM_SLICES="2")
    assert processes._tpu_machines() == 8


@pytest.fixture
def metadata(monkeypatch):
    """A metadata server like Compute Engine's, whose attributes the test sets."""
    attributes = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            value = attributes.get(self.path.rpartition("/")[2])
            right = self.headers.get("Metadata-Flavor") == "Google" and value is not None
            self.send_response(200 if right else 404)
            self.end_headers()
            self.wfile.write((value or "").encode() if right else b"")

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_IP", f"localhost:{server.server_port}")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    yield attributes
    server.shutdown()
    server.server_close()


def test_tpu_machines_are_counted_as_compute_engine_tells_them(environment, metadata, monkeypatch):
    assert processes._tpu_machines() == 1  # Colab and Kaggle tell nothing
    metadata["worker-network-endpoints"] = "a:b:10.0.0.1,a:b:10.0.0.2"
    assert processes._tpu_machines() == 2
    metadata["tpu-env"] = "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '3'\n"
    assert processes._tpu_machines() == 6
    monkeypatch.setenv("GCE_METADATA_IP", "localhost:1")
    assert processes._tpu_machines() == 1
