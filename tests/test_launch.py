"""The start scripts, with stand-ins for what they call: gcloud, Slurm, python and pip."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"


class Machine:
    """A folder of stand-in programs that come first on PATH, each of which notes its arguments in `calls`."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.environment = folder, {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
        self.calls_file = folder / "calls"
        self.calls_file.touch()

    def stand_in(self, name: str, body: str = "") -> None:
        path = self.folder / name
        path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"{self.calls_file}"\n{body}\n')
        path.chmod(0o755)

    def call(self, *command: str, cwd: pathlib.Path = ROOT, **settings: str) -> subprocess.CompletedProcess:
        environment = {**self.environment, **settings}
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def machine(tmp_path):
    (tmp_path / "bin").mkdir()
    return Machine(tmp_path / "bin")


@pytest.mark.fast
def test_shellcheck_is_content():
    scripts = [str(path) for path in (*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch", ROOT / ".ci" / "run")]
    checker = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    assert checker, "pip install -e .[test] brings shellcheck"
    result = subprocess.run([checker, *scripts], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


# --- several processes on one machine


def test_multiprocess_tells_each_process_who_it_is(machine):
    show = "echo $JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID; exit $JAX_PROCESS_ID"
    result = machine.call("bash", "launch/multiprocess.sh", "3", "bash", "-c", show, PORT="1234", JAX_PLATFORMS="cpu")
    assert sorted(result.stdout.splitlines()) == [f"localhost:1234 3 {i}" for i in range(3)]
    assert result.returncode == 1  # the smallest that is not 0


def test_multiprocess_shares_out_the_gpus(machine):
    machine.stand_in("nvidia-smi", "printf 'GPU 0\\nGPU 1\\nGPU 2\\nGPU 3\\n'")
    command = ("bash", "launch/multiprocess.sh", "2", "bash", "-c", "echo $JAX_LOCAL_DEVICE_IDS")
    assert sorted(machine.call(*command, JAX_PLATFORMS="").stdout.split()) == ["0,1", "2,3"]
    result = machine.call(*command[:2], "3", *command[3:], JAX_PLATFORMS="")
    assert result.returncode == 2 and "4 GPUs cannot be shared out among 3 processes" in result.stderr


def test_multiprocess_hands_on_signals_and_waits(machine, tmp_path):
    body = f"trap 'sleep 0.3; touch {tmp_path}/$JAX_PROCESS_ID; exit 75' TERM; touch {tmp_path}/up$JAX_PROCESS_ID; "
    body += "while true; do sleep 0.05; done"
    command = ["bash", "launch/multiprocess.sh", "2", "bash", "-c", body]
    process = subprocess.Popen(command, cwd=ROOT, env={**machine.environment, "JAX_PLATFORMS": "cpu"})
    deadline = time.time() + 20
    while not all((tmp_path / f"up{i}").exists() for i in range(2)) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists()  # both were let finish


@pytest.mark.fast
@pytest.mark.parametrize("arguments", [(), ("2",), ("0", "true"), ("many", "true")])
def test_multiprocess_explains_itself(machine, arguments):
    result = machine.call("bash", "launch/multiprocess.sh", *arguments)
    assert result.returncode == 2 and "multiprocess.sh N COMMAND" in result.stderr


# --- a TPU slice

WORKDIR = "--workdir=gs://bucket/run"


def cloud(machine: Machine, states: list[str], told: list[str]) -> None:
    """A gcloud whose slice goes through `states`, and whose machines tell `told`, one a question, the last forever."""
    for name, answers in (("states", states), ("told", told)):
        (machine.folder / name).write_text("".join(f"{answer}\n" for answer in answers))
    machine.stand_in(
        "gcloud",
        f"""
next() {{
  head -n 1 {machine.folder}/$1
  [ "$(wc -l <{machine.folder}/$1)" = 1 ] || sed -i 1d {machine.folder}/$1
}}
case "$*" in
  *"queued-resources list"*) next states ;;
  *"worker.sh status"*) told=$(next told | tr , '\\n'); echo "$told"; [ "$told" != fail ] ;;
esac""",
    )


def tpu(machine: Machine, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
    return machine.call("bash", "launch/tpu_vm.sh", *arguments, POLL="0", TMPDIR=str(machine.folder), **settings)


def verbs(machine: Machine) -> list[str]:
    """What was done to the slice, in order, looks left out."""
    found = []
    for call in machine.calls:
        words = call.split()
        if words[0] != "gcloud" or "status" in words or "list" in words:
            continue
        if words[3] == "queued-resources":
            found.append(words[4])
        elif "worker.sh" in call:
            found.append(words[words.index("ssl_jax/launch/worker.sh") + 1])
        else:
            found.append("copy" if words[4] == "scp" else "unpack" if "tar" in words[-1] or "tar" in call else "ssh")
    return found


def test_tpu_create_asks_for_what_was_named(machine):
    cloud(machine, ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], [])
    result = tpu(machine, "create", "--name=a", "--zone=z", "--project=p", "--accelerator=v6e-8", "--spot")
    assert result.returncode == 0, result.stderr
    call = machine.calls[0]
    for words in (
        "queued-resources create a --node-id=a",
        "--accelerator-type=v6e-8",
        "--spot",
        "--zone=z --project=p",
    ):
        assert words in call
    assert "WAITING_FOR_RESOURCES" in result.stdout and "PROVISIONING" in result.stdout
    cloud(machine, ["FAILED"], [])
    result = tpu(machine, "create")
    assert result.returncode == 1 and "is FAILED" in result.stderr


def test_tpu_dry_run_prints_and_does_nothing(machine):
    cloud(machine, ["ACTIVE"], [])
    result = tpu(machine, "run", "--dry-run", "--spot", "--zone=z", "--config=c.py:x", WORKDIR)
    assert result.returncode == 0, result.stderr
    assert machine.calls == []
    printed = result.stdout
    for words in (
        "queued-resources create",
        "git archive",
        "tpu-vm scp",
        "worker.sh\\ setup",
        "--worker=all",
        "--spot",
    ):
        assert words in printed
    assert f"start\\ --config=c.py:x\\ {WORKDIR}" in printed
    for action in ("create", "setup", "logs", "status", "stop", "delete"):
        result = tpu(machine, action, "--dry-run")
        assert result.returncode == 0 and "gcloud compute tpus" in result.stdout
    assert machine.calls == []


def test_tpu_run_makes_a_preempted_slice_anew_and_goes_on(machine):
    # No slice; made and ready; watched while running; preempted; deleted and made anew; done.
    states = ["", "ACTIVE", "ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE"]
    cloud(machine, states, ["running,running", "running,running", "exited 0,exited 0"])
    result = tpu(machine, "run", "--spot", "--config=c.py:x", WORKDIR)
    assert result.returncode == 0, result.stderr
    begin = ["create", "copy", "unpack", "setup", "start"]
    assert verbs(machine) == [*begin, "delete", *begin]
    assert "is lost; starting it again" in result.stdout
    assert "stays, and costs money, until 'bash launch/tpu_vm.sh delete --name=ssl-jax'" in result.stdout


def test_tpu_run_is_not_given_up_for_one_connection_that_fails(machine):
    cloud(machine, ["ACTIVE"], ["running,running", "fail", "running,running", "exited 0,exited 0"])
    result = tpu(machine, "run", "--config=c.py:x", WORKDIR)
    assert result.returncode == 0, result.stderr
    assert verbs(machine).count("start") == 1
    cloud(machine, ["ACTIVE"], ["fail", "fail", "fail", "exited 0,exited 0"])
    result = tpu(machine, "run", "--config=c.py:x", WORKDIR)
    assert result.returncode == 0 and "is lost; starting it again" in result.stdout


def test_what_is_new_and_changed_goes_to_the_slice_once(machine, tmp_path):
    """Untracked code too; what is edited during the run does not."""
    root = tmp_path / "checkout"
    shutil.copytree(LAUNCH, root / "launch")
    for folder in ("ssl_jax", "configs"):
        (root / folder).mkdir()
        (root / folder / "old.py").write_text("old")
    (root / "notes.txt").write_text("mine")
    git = ("git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "ssl_jax", "configs", "launch"), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *command], check=True)
    (root / "ssl_jax" / "old.py").write_text("changed")
    (root / "configs" / "new.py").write_text("new")
    status = subprocess.run([*git, "status", "--short"], capture_output=True, text=True).stdout
    cloud(machine, ["ACTIVE"], ["exited 137", "exited 0"])
    machine.stand_in("sleep", f"echo later >{root}/ssl_jax/old.py")
    result = machine.call("bash", "launch/tpu_vm.sh", "run", WORKDIR, cwd=root, POLL="0", TMPDIR=str(machine.folder))
    assert result.returncode == 0, result.stderr
    assert (root / "ssl_jax" / "old.py").read_text() == "later\n"
    with tarfile.open(machine.folder / "ssl_jax-ssl-jax.tar.gz") as archive:
        names = archive.getnames()
        old = archive.extractfile("ssl_jax/ssl_jax/old.py").read()
    assert "ssl_jax/configs/new.py" in names and "ssl_jax/notes.txt" not in names and old == b"changed"
    assert subprocess.run([*git, "status", "--short"], capture_output=True, text=True).stdout == status


@pytest.mark.parametrize(
    ("told", "status", "starts"),
    [
        (["exited 75,exited 2"], 2, 1),  # a mistake of one machine ends it, whatever it did to the others
        (["exited 3,exited 3"], 3, 1),
        (["stopped,stopped"], 75, 1),
        (["exited 75,exited 137", "exited 0,exited 0"], 0, 2),  # one was killed, so the other stopped
        (["running,exited 134", "exited 134,exited 75", "exited 0,exited 0"], 0, 2),
    ],
)
def test_tpu_run_tells_what_a_restart_can_mend(machine, told, status, starts):
    cloud(machine, ["ACTIVE"], told)
    result = tpu(machine, "run", "--config=c.py:x", WORKDIR)
    assert result.returncode == status, result.stderr
    assert verbs(machine).count("start") == starts
    assert "The slice stays, and costs money" in result.stdout + result.stderr


def test_tpu_run_gives_up(machine):
    cloud(machine, ["ACTIVE"], ["exited 137"])
    result = tpu(machine, "run", WORKDIR, RESTARTS="2")
    assert result.returncode == 1 and "Gave up after 2 restarts" in result.stderr
    assert "costs money" in result.stderr
    assert verbs(machine).count("start") == 3


@pytest.mark.fast
def test_tpu_mistakes_are_explained(machine):
    machine.stand_in("gcloud")
    for arguments, words in (
        (("run", "--workdir=runs/a"), "needs --workdir=gs://"),
        (("run", "--acelerator=v5litepod-16", WORKDIR), "'--acelerator=v5litepod-16' is no flag"),
        (("run", "-name=a", WORKDIR), "'-name=a' is no flag"),
        (("delete", "--nmae=a"), "'--nmae=a' means nothing to delete"),
        (("destroy",), "tpu_vm.sh ACTION"),
        ((), "tpu_vm.sh ACTION"),
    ):
        result = tpu(machine, *arguments)
        assert result.returncode == 2 and words in result.stderr
    assert machine.calls == []


def checkout(machine: Machine, folder: pathlib.Path) -> pathlib.Path:
    """A copy of the scripts beside an environment whose python is a stand-in."""
    shutil.copytree(LAUNCH, folder / "launch")
    (folder / "setup.py").touch()
    environment = folder / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "pyvenv.cfg").touch()
    machine.stand_in(
        "python", 'case "$*" in *fail*) exit 3 ;; *wait*) trap "exit 75" TERM; while :; do sleep 0.05; done ;; esac'
    )
    shutil.copy(machine.folder / "python", environment / "bin" / "python")
    return folder


def test_worker_starts_once_stops_and_tells(machine, tmp_path):
    root = checkout(machine, tmp_path / "checkout")

    def worker(*arguments):
        result = machine.call("bash", "launch/worker.sh", *arguments, cwd=root, VENV=".venv")
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    assert worker("status") == "ready"
    worker("start", "--workdir=gs://wait for it")
    worker("start", "--workdir=gs://wait for it")
    assert worker("status") == "running"
    assert machine.calls == ["python -m ssl_jax.main --workdir=gs://wait for it"]
    worker("stop")
    assert worker("status") == "stopped"
    worker("start", "fail")
    deadline = time.time() + 20
    while worker("status") == "running" and time.time() < deadline:
        time.sleep(0.05)
    assert worker("status") == "exited 3"
    shutil.rmtree(root / ".venv")
    for file in root.glob("run.*"):
        file.unlink()
    assert worker("status") == "bare"


# --- Slurm and Kubernetes


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (75, True), (137, True), (2, False), (3, False)])
def test_slurm_puts_back_what_can_go_on(machine, status, requeued):
    machine.stand_in("srun", f"exit {status}")
    machine.stand_in("scontrol")
    result = machine.call("bash", "launch/slurm.sbatch", "--config=c.py:x", SLURM_JOB_ID="7", VENV="env")
    assert result.returncode == status
    assert any(call.endswith("env/bin/python -m ssl_jax.main --config=c.py:x") for call in machine.calls)
    assert ("scontrol requeue 7" in machine.calls) == requeued


@pytest.mark.parametrize(
    ("tasks", "status", "requeued"),
    [((0, 0), 0, False), ((2, 75), 2, False), ((75, 75), 75, True), ((137, 75), 75, True), ((3, 137), 3, False)],
)
def test_slurm_takes_a_mistake_of_one_task_for_one(machine, tmp_path, tasks, status, requeued):
    machine.stand_in("python", 'exit "$(cut -d, -f$((SLURM_PROCID + 1)) <<<"$STATUSES")"')
    # As srun does it: every task, and the largest status.
    machine.stand_in(
        "srun",
        """shift
worst=0
for SLURM_PROCID in 0 1; do
  export SLURM_PROCID
  status=0
  "$@" || status=$?
  [ $status -le $worst ] || worst=$status
done
exit $worst""",
    )
    machine.stand_in("scontrol")
    environment = tmp_path / "env" / "bin"
    environment.mkdir(parents=True)
    shutil.copy(machine.folder / "python", environment / "python")
    settings = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "VENV": "env"}
    settings["STATUSES"] = ",".join(map(str, tasks))
    result = machine.call("bash", str(LAUNCH / "slurm.sbatch"), "--config=c.py:x", **settings)
    assert result.returncode == status, result.stderr
    assert ("scontrol requeue 7" in machine.calls) == requeued
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".slurm")] == []
    result = machine.call("bash", str(LAUNCH / "slurm.sbatch"), **settings, SLURM_RESTART_COUNT="4", RESTARTS="4")
    assert machine.calls.count("scontrol requeue 7") == requeued
    assert ("given up" in result.stderr) == requeued


def test_slurm_hands_a_signal_on_to_the_program(machine, tmp_path):
    body = 'trap "exit 75" TERM; touch started; for i in $(seq 400); do sleep 0.05; done'
    machine.stand_in("python", body)
    machine.stand_in("srun", 'shift; exec env SLURM_PROCID=0 setsid "$@"')
    machine.stand_in("scontrol")
    environment = tmp_path / "env" / "bin"
    environment.mkdir(parents=True)
    shutil.copy(machine.folder / "python", environment / "python")
    settings = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "VENV": "env"}
    job = subprocess.Popen(
        ["bash", str(LAUNCH / "slurm.sbatch")], env={**machine.environment, **settings}, stderr=subprocess.PIPE
    )
    deadline = time.time() + 20
    while not (tmp_path / "started").exists() and time.time() < deadline:
        time.sleep(0.05)
    # To the task's own shell alone.
    shells = subprocess.run(["pgrep", "-f", "task .slurm-7"], capture_output=True, text=True).stdout.split()
    for shell in shells:
        os.kill(int(shell), signal.SIGTERM)
    job.communicate(timeout=20)
    assert job.returncode == 75
    assert "scontrol requeue 7" in machine.calls


@pytest.mark.fast
def test_slurm_dry_run_and_directives(machine):
    machine.stand_in("srun")
    result = machine.call("bash", "launch/slurm.sbatch", "--dry-run", "--config=c.py:x")
    assert result.returncode == 0 and "srun" in result.stdout and "--config=c.py:x" in result.stdout
    assert machine.calls == []
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert lines.index(directives[-1]) < lines.index("set -euo pipefail")  # Slurm reads none after the first command
    assert "#SBATCH --requeue" in directives and "#SBATCH --signal=TERM@120" in directives


@pytest.mark.fast
def test_jobset_restarts_all_but_mistakes():
    spec = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())["spec"]
    (jobs,) = spec["replicatedJobs"]
    job = jobs["template"]["spec"]
    assert job["parallelism"] == job["completions"] and job["completionMode"] == "Indexed"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 2, 3] and rule["action"] == "FailJob"
    assert spec["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["name"] == rule["onExitCodes"]["containerName"]
    assert any(argument.startswith("--workdir=gs://") for argument in container["command"])


# --- the environment, the quickstart and the tests


def test_environment_is_made_once_and_anew_when_setup_changes(machine, tmp_path):
    root = checkout(machine, tmp_path / "checkout")
    command = ("bash", "-c", ". launch/environment.sh && environment test")
    assert "Installing ssl_jax[test]" in machine.call(*command, cwd=root).stdout
    assert machine.calls[-1].endswith("pip install --quiet --disable-pip-version-check --editable .[test]")
    assert machine.call(*command, cwd=root).stdout == ""
    later = time.time() + 5
    os.utime(root / "setup.py", (later, later))
    assert "Installing" in machine.call(*command, cwd=root).stdout


@pytest.mark.parametrize("newest", ["", "1"])
def test_environment_has_the_versions_that_passed_unless_the_newest_are_wanted(machine, tmp_path, newest):
    root = checkout(machine, tmp_path / "checkout")
    runs(machine, "python", "3.11")
    shutil.copy(machine.folder / "python", root / ".venv" / "bin" / "python")
    machine.call("bash", "-c", ". launch/environment.sh && environment test", cwd=root, NEWEST=newest)
    constraint = "" if newest else "--constraint launch/constraints-3.11.txt "
    assert machine.calls[-1].endswith(f"--disable-pip-version-check {constraint}--editable .[test]")


@pytest.mark.fast
def test_constraints_name_what_the_package_needs():
    """Every requirement of setup.py is pinned, but for extras that the tests do without."""
    setup = (ROOT / "setup.py").read_text()
    body = setup.split("install_requires=[")[1].split('"gpu"')[0] + setup.split('"test": [')[1]
    named = {re.match(r"[\w-]+", line)[0] for line in re.findall(r'"([\w-]+(?:\[[\w\[\]]+\])?(?:>=[^"]*)?)"', body)}
    for version in ("3.11", "3.13"):
        text = (LAUNCH / f"constraints-{version}.txt").read_text()
        pinned = {line.split("==")[0].lower().replace("_", "-") for line in text.splitlines() if "==" in line}
        assert not (missing := {name for name in named if name.lower().replace("_", "-") not in pinned}), missing
        assert "/" not in text.replace("launch/constraints.sh", "")


@pytest.mark.fast
def test_environment_refuses_what_is_none(machine, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    command = ("bash", "-c", ". launch/environment.sh && environment ''")
    result = machine.call(*command, VENV=str(tmp_path / "mine"))
    assert result.returncode == 2 and "is no virtual environment" in result.stderr
    result = machine.call(*command, VENV=str(tmp_path / "none"), PYTHON="no_such_python")
    assert result.returncode == 2 and "No Python 3.11 to 3.13 was found (looked for no_such_python)" in result.stderr


def test_local_and_test_scripts_pass_their_arguments_on(machine, tmp_path):
    root = checkout(machine, tmp_path / "checkout")
    result = machine.call("bash", "launch/local.sh", "--config.epochs=2", "--workdir=runs/b", cwd=root)
    assert result.returncode == 0, result.stderr
    main, evaluate, report = machine.calls[-3:]
    assert main.endswith(
        "ssl_jax.main --config=configs/simclr.py:digits --workdir=runs/b --config.epochs=2 --workdir=runs/b"
    )
    assert evaluate.startswith("python -m ssl_jax.evaluate --workdir=runs/b ") and report.endswith("--workdir=runs/b")
    assert machine.call("bash", "launch/local.sh", "fail", cwd=root).returncode == 3
    machine.call("bash", "launch/test.sh", "-m", "fast", cwd=root)
    assert machine.calls[-1] == "python -m pytest -n 2 --dist loadscope -m fast"


def test_a_sweep_trains_and_evaluates_each_and_draws_all(machine, tmp_path):
    root = checkout(machine, tmp_path / "checkout")
    sweep = ("bash", "launch/sweep.sh", "digits", "simclr byol", "0 1", "--config.epochs=2")
    result = machine.call(*sweep, cwd=root)
    assert result.returncode == 0, result.stderr
    calls = [call.removeprefix("python -m ssl_jax ") for call in machine.calls]
    assert calls[2] == "train simclr:digits runs/sweep/simclr-1 --config.seed=1 --config.epochs=2"
    assert calls[3] == "evaluate runs/sweep/simclr-1 --evals=knn,linear,few_label"
    assert [call.split()[0] for call in calls] == ["train", "evaluate"] * 4 + ["report"]
    assert calls[-1].split()[1:] == [f"runs/sweep/{name}" for name in ("simclr-0", "simclr-1", "byol-0", "byol-1")]
    machine.call(*sweep, cwd=root, SLURM_ARRAY_TASK_ID="2", SLURM_SUBMIT_DIR=str(root))
    assert [call.split()[3:6] for call in machine.calls[9:]] == [
        ["train", "byol:digits", "runs/sweep/byol-0"],
        ["evaluate", "runs/sweep/byol-0", "--evals=knn,linear,few_label"],
    ]
    result = machine.call("bash", "launch/sweep.sh", "digits", cwd=root)
    assert result.returncode == 2 and "launch/sweep.sh PRESET" in result.stderr


def runs(machine: Machine, name: str, version: str) -> None:
    """A Python on PATH that tells its version and makes virtual environments of itself."""
    machine.stand_in(
        name,
        f"""
case "$*" in
  *print*) echo {version} ;;
  "-m venv "*) mkdir -p "$3/bin" && touch "$3/pyvenv.cfg" && cp "$0" "$3/bin/python" ;;
esac""",
    )


def second(machine: Machine, root: pathlib.Path, first: str, **settings: str) -> subprocess.CompletedProcess:
    runs(machine, "python", first)
    shutil.copy(machine.folder / "python", root / ".venv" / "bin" / "python")
    return machine.call("bash", "launch/test_second.sh", cwd=root, **settings)


@pytest.mark.parametrize(("first", "others"), [("3.11", ["3.12", "3.13"]), ("3.12", ["3.11"]), ("3.13", ["3.11"])])
def test_second_python_has_the_other_jax(machine, tmp_path, first, others):
    root = checkout(machine, tmp_path / "checkout")
    for version in ("3.11", "3.12", "3.13"):
        runs(machine, f"python{version}", version)
    result = second(machine, root, first)
    assert result.returncode == 0, result.stderr
    assert f"Python {others[-1]} beside {first}" in result.stdout
    assert (root / ".venv-second" / "pyvenv.cfg").exists()
    *_, install, tests = machine.calls
    assert install.endswith("--editable .[test]") and "-m pytest" in tests
    # What is run exists.
    for word in tests.split():
        file, _, name = word.partition("::")
        if file.startswith("tests/"):
            assert f"def {name}" in (ROOT / file).read_text()
    assert "test_style.py" in tests and "test_methods.py::test_" in tests


def test_second_python_must_run(machine, tmp_path):
    """Pyenv's commands are on PATH whether or not they run; its versions are asked then."""
    root = checkout(machine, tmp_path / "checkout")
    for name in ("python3.12", "python3.13"):
        machine.stand_in(name, "exit 127")
    machine.stand_in("pyenv", f"echo {tmp_path}/pyenv")
    result = second(machine, root, "3.11")
    assert result.returncode == 0 and "No second Python was found beside 3.11" in result.stdout
    assert not any("pytest" in call for call in machine.calls)
    runs(machine, "other", "3.13")
    (tmp_path / "pyenv" / "versions" / "3.13.0" / "bin").mkdir(parents=True)
    shutil.copy(machine.folder / "other", tmp_path / "pyenv" / "versions" / "3.13.0" / "bin" / "python")
    result = second(machine, root, "3.11", SECOND_VENV=str(tmp_path / "there"))
    assert result.returncode == 0 and "Python 3.13 beside 3.11" in result.stdout
    assert (tmp_path / "there" / "pyvenv.cfg").exists() and "pytest" in machine.calls[-1]


def test_second_python_that_is_named_must_run(machine, tmp_path):
    root = checkout(machine, tmp_path / "checkout")
    result = second(machine, root, "3.11", SECOND_PYTHON="no_such_python")
    assert result.returncode == 2 and "SECOND_PYTHON=no_such_python does not run" in result.stderr


@pytest.mark.parametrize("failing", ["", "test_second", "test"])
def test_continuous_integration_runs_both_and_fails_with_either(tmp_path, failing):
    for name in ("test_second", "test"):
        script = tmp_path / "launch" / f"{name}.sh"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"echo {name}\nexit {5 if name == failing else 0}\n")
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    result = subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["test_second", "test"]
    assert result.returncode == (5 if failing else 0)
    assert ("The second Python failed" in result.stderr) == (failing == "test_second")
