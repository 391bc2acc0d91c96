"""How many updates does each kind of interruption cost, and are the weights the same in the end?

    python benchmarks/faults.py [--times=3] [--workdir=FOLDER]

Trains a small SimCLR on digits (40 updates, a checkpoint every 5, an evaluation every 10), lets faults happen to it,
and repeats the same command until it is done. Prints a Markdown table: how often a fault was injected, how many updates
were lost, that is, had to be done again, and whether the final weights are bitwise those of an undisturbed run.

Signals at an exact place are sent by the run to itself, from a program that replaces one function by one that does so
(`python benchmarks/faults.py --child FAULT UPDATE ...`); those at random times come from outside. The full disk is a
small tmpfs where that may be mounted (as root), otherwise an error in place of the write; the table says which.
"""

import argparse
import errno
import functools
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from ssl_jax import evaluate, loop, main
from ssl_jax.monitor import Monitor
from ssl_jax.run import prepare
from ssl_jax.runtime import processes
from ssl_jax.workdir import checkpoint
from ssl_jax.workdir.log import speak_plainly

CONFIG = (
    "--config=simclr:digits",
    "--config.epochs=4",
    "--config.batch_size=128",
    "--config.model.width=4",
    "--config.run.save_epochs=0.5",
    "--config.run.eval_epochs=1",
    "--config.run.log_steps=1",
)
UPDATES, SAVE, EVALUATE = 40, 5, 10
MOST_STARTS = 20  # of one run, before it counts as stuck


# --- in the run


def _stop_self() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def at_update(update: int) -> None:
    """SIGTERM while an update is being computed."""
    right = loop.mapped_step

    def mapped_step(run):
        step = right(run)
        calls = iter(range(1, UPDATES + 1))

        def disturbed(*arguments):
            if next(calls) == update:
                _stop_self()
            return step(*arguments)

        return disturbed

    loop.mapped_step = mapped_step


def at_checkpoint(update: int) -> None:
    """SIGTERM while a checkpoint is being written."""
    right = checkpoint.Checkpoints.save

    def save(self, step, *what):
        right(self, step, *what)
        if step == update:
            _stop_self()

    checkpoint.Checkpoints.save = save


def at_evaluation(update: int) -> None:
    """SIGTERM after the first block of an evaluation."""
    right = Monitor.__call__

    def watch(self, ts, done, *what):
        if done == update:
            extract = self._extract
            self._extract = lambda *arguments: (_stop_self(), extract(*arguments))[1]
        return right(self, ts, done, *what)

    Monitor.__call__ = watch


def no_writing(number: int, update: int) -> None:
    """The write of a checkpoint fails with an error number of the system."""
    right = checkpoint.Checkpoints.save

    def save(self, step, *what):
        if step == update:
            raise OSError(number, os.strerror(number))
        right(self, step, *what)

    checkpoint.Checkpoints.save = save


INSIDE = {
    "update": at_update,
    "checkpoint": at_checkpoint,
    "evaluation": at_evaluation,
    "disk": functools.partial(no_writing, errno.ENOSPC),
    "read-only": functools.partial(no_writing, errno.EROFS),
}


# --- around it


def start(workdir: pathlib.Path, fault: str = "", update: int = 0) -> subprocess.Popen:
    """Starts the run, with a fault inside or none."""
    program = [__file__, "--child", fault, str(update)] if fault else ["-m", "ssl_jax.main"]
    return subprocess.Popen(
        [sys.executable, *program, *CONFIG, f"--workdir={workdir}"], stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status, and what was told."""
    told = process.communicate()[1]
    return process.returncode, told


def reached(told: str) -> int:
    """Updates that the run had told of."""
    return max((int(number) for number in re.findall(r"(?:step |after update )(\d+)", told)), default=0)


def resumed(told: str) -> int:
    """Updates from which a start went on."""
    found = re.search(r"Resuming after update (\d+)", told)
    return int(found[1]) if found else 0


def finish(workdir: pathlib.Path, told: str) -> int:
    """Repeats the command until the run is done; returns the updates that had to be done again."""
    before = reached(told)
    for _ in range(MOST_STARTS):
        status, told = end(start(workdir))
        lost = before - resumed(told)
        if status == 0:
            return lost
    raise SystemExit(f"The run in {workdir} does not end: {told}")


def weights(workdir: pathlib.Path) -> list[np.ndarray]:
    """The whole state at the end of a run, on the host."""
    run = prepare(evaluate.load_config(str(workdir)), jax.devices()[:1])
    return [np.asarray(x) for x in jax.tree.leaves(evaluate.restore(run, str(workdir)))]


def signalled(place: str, choices: list[int]):
    """A fault: SIGTERM at a place inside; must end with status 75."""

    def inject(workdir: pathlib.Path, random: random.Random) -> int:
        status, told = end(start(workdir, place, random.choice(choices)))
        assert status == processes.RESUMABLE, (status, told)
        return finish(workdir, told)

    return inject


def killed(workdir: pathlib.Path, random: random.Random) -> int:
    """A fault: kill -9 at a random time of the training."""
    process, told = start(workdir), ""
    update, delay = random.randrange(1, UPDATES), random.uniform(0, 0.1)
    for line in process.stderr:
        told += line
        if reached(line) >= update:
            break
    time.sleep(delay)
    process.kill()
    return finish(workdir, told + end(process)[1])


def between(change):
    """A fault: something happens to the workdir between a stop and the next start, which loses nothing."""

    def inject(workdir: pathlib.Path, random: random.Random) -> int:
        _, told = end(start(workdir, "update", random.randrange(SAVE + 1, UPDATES)))
        change(workdir)
        return finish(workdir, told)

    return inject


def _without_config(workdir: pathlib.Path) -> None:
    (workdir / "config.json").unlink()


def _with_cut_config(workdir: pathlib.Path) -> None:
    os.truncate(workdir / "config.json", 100)


def _without_record(workdir: pathlib.Path) -> None:
    (workdir / "images.json").unlink()


def _with_odd_log(workdir: pathlib.Path) -> None:
    with (workdir / "metrics.jsonl").open("ab") as file:
        file.write(b'null\n{"a": 1}\n\xff\xfe\n{"step": 4')


def _from_the_future(workdir: pathlib.Path) -> None:
    for path in workdir.rglob("*"):
        os.utime(path, (time.time() + 86400,) * 2)


def _with_lock_of_another_machine(workdir: pathlib.Path) -> None:
    held = {"host": "far", "pid": 1, "since": "then", "born": "1", "place": "elsewhere", "token": "x"}
    (workdir / "train.lock").write_text(json.dumps(held))
    os.utime(workdir / "train.lock", (time.time() - 3600,) * 2)


def _with_half_a_lock(workdir: pathlib.Path) -> None:
    (workdir / "train.lock").write_text('{"pid"')


def _with_damaged_results(workdir: pathlib.Path) -> None:
    (workdir / "results.json").write_text("{")
    assert evaluate.main([f"--workdir={workdir}", "--evals=health"]) == 0


def second(workdir: pathlib.Path, random: random.Random) -> int:
    """A fault: the command is given again while the run goes on, which must not notice."""
    process, told = start(workdir), ""
    for line in process.stderr:
        told += line
        if reached(line) >= 1:
            break
    process.send_signal(signal.SIGSTOP)  # so that it has not ended before the second start looks
    status, said = end(start(workdir))
    process.send_signal(signal.SIGCONT)
    assert status == 2 and f"process {process.pid} on" in said, (status, said)
    status, rest = end(process)
    assert status == 0, told + rest
    return 0


def refused(workdir: pathlib.Path, random: random.Random) -> int:
    """A fault: the workdir becomes read-only at a checkpoint, and can be written again for the next start."""
    status, told = end(start(workdir, "read-only", random.randrange(2 * SAVE, UPDATES, SAVE)))
    assert status == 2 and "cannot be written any more" in told and "Traceback" not in told, (status, told)
    return finish(workdir, told)


def emptied(workdir: pathlib.Path, random: random.Random) -> int:
    """A fault: all files of the newest checkpoint lose their content, after a stop."""
    _, told = end(start(workdir, "update", random.randrange(SAVE + 1, UPDATES)))
    newest = max((p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    for path in newest.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    return finish(workdir, told)


def truncated(workdir: pathlib.Path, random: random.Random) -> int:
    """A fault: the largest file of the newest checkpoint loses its end, after a stop."""
    _, told = end(start(workdir, "update", random.randrange(SAVE + 1, UPDATES)))
    newest = max((p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    return finish(workdir, told)


def filled(workdir: pathlib.Path, random: random.Random) -> int:
    """A fault: the disk is full at a checkpoint, and has room again for the next start."""
    update = random.randrange(2 * SAVE, UPDATES, SAVE)
    if not _mount(workdir):
        return _told_of_full_disk(workdir, *end(start(workdir, "disk", update)))
    try:
        process, told = start(workdir), ""
        for line in process.stderr:
            told += line
            if reached(line) >= update - SAVE + 1:
                break
        _fill(workdir / "filler")
        status, rest = end(process)
        (workdir / "filler").unlink()
        return _told_of_full_disk(workdir, status, told + rest)
    finally:
        # What the comparison needs outlives the mount.
        subprocess.run(["cp", "-r", str(workdir), f"{workdir}.copy"], check=True)
        subprocess.run(["umount", str(workdir)], check=True)
        workdir.rmdir()
        pathlib.Path(f"{workdir}.copy").rename(workdir)


def _told_of_full_disk(workdir: pathlib.Path, status: int, told: str) -> int:
    assert status == 2 and "is full: make room" in told and "Traceback" not in told, (status, told)
    return finish(workdir, told)


def _mount(workdir: pathlib.Path) -> bool:
    workdir.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(workdir)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        workdir.rmdir()
    return mounted


def _fill(path: pathlib.Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


FAULTS = {
    "SIGTERM during an update": signalled("update", list(range(1, UPDATES))),
    "SIGTERM during a checkpoint": signalled("checkpoint", list(range(SAVE, UPDATES, SAVE))),
    "SIGTERM during an evaluation": signalled("evaluation", list(range(0, UPDATES + 1, EVALUATE))),
    "kill -9 at a random time": killed,
    "newest checkpoint truncated": truncated,
    "newest checkpoint emptied": emptied,
    "disk full": filled,
    "workdir read-only": refused,
    "second start beside the first": second,
    "config.json lost": between(_without_config),
    "config.json cut": between(_with_cut_config),
    "images.json lost": between(_without_record),
    "odd lines in metrics.jsonl": between(_with_odd_log),
    "damaged results.json": between(_with_damaged_results),
    "files from the future (clock set back)": between(_from_the_future),
    "lock of a machine that is gone": between(_with_lock_of_another_machine),
    "lock cut short": between(_with_half_a_lock),
}


def measure(times: int, workdir: pathlib.Path) -> str:
    """Injects every fault so many times; returns the table."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(workdir / "cache")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    status, told = end(start(workdir / "undisturbed"))
    assert status == 0, told
    wanted = weights(workdir / "undisturbed")
    lines = ["| fault | times | updates lost | weights equal |", "|---|---|---|---|"]
    for name, inject in FAULTS.items():
        lost, equal = [], 0
        for number in range(times):
            folder = workdir / re.sub(r"\W+", "_", f"{name} {number}")
            lost.append(inject(folder, random.Random(number)))
            found = weights(folder)
            same = all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
            equal += same
            told = f"{name}, {number + 1} of {times}: {lost[-1]} updates lost, weights {'equal' if same else 'differ'}"
            print(told, file=sys.stderr, flush=True)
        lines.append(f"| {name} | {times} | {', '.join(map(str, lost))} | {equal} of {times} |")
    return "\n".join(lines)


def command_line() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="of each fault")
    parser.add_argument("--workdir", help="empty folder for the runs (default: a temporary one)")
    args = parser.parse_args()
    speak_plainly()
    with tempfile.TemporaryDirectory() as temporary:
        print(measure(args.times, pathlib.Path(args.workdir or temporary)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        place, number, *rest = sys.argv[2:]
        INSIDE[place](int(number))
        processes.run(lambda argv: main.main([argv[0], *rest]))
    else:
        command_line()
