"""How many updates does each kind of interruption cost, and are the weights the same in the end?

    python benchmarks/faults.py [--times=3] [--only=WORDS]

Trains a small SimCLR on a folder of digits (40 updates, a checkpoint every 5, an evaluation every 10), lets faults
happen to it, and repeats the same command until it is done. Writes a line of JSON a fault: how often it was injected,
how many updates were lost, that is, had to be done again, and how often the final weights are bitwise those of an
undisturbed run. `python docs/generate.py` makes the table of docs/faults.md of docs/faults.jsonl.

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
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from PIL import Image
from record import circumstances

from ssl_jax import data, evaluate, loop, main
from ssl_jax.monitor import Monitor
from ssl_jax.run import prepare
from ssl_jax.runtime import processes
from ssl_jax.workdir import checkpoint
from ssl_jax.workdir.log import speak_plainly

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORD, PAGE = ROOT / "docs" / "faults.jsonl", ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- faults: made by docs/generate.py -->\n", "<!-- end of faults -->\n"
CONFIG = (
    "--config=simclr:digits",
    "--config.epochs=4",
    "--config.batch_size=128",
    "--config.model.width=4",
    "--config.run.save_epochs=0.5",
    "--config.run.eval_epochs=1",
    "--config.run.log_steps=1",
)
UPDATES, SAVE, EVALUATE = 40, 5, 10  # 1,352 training images
HOUR = 3600
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


def clock_set_back(update: int) -> None:
    """The clock of the machine goes back by an hour."""
    right, began = time.time, loop.mapped_step

    def mapped_step(run):
        step = began(run)
        calls = iter(range(1, UPDATES + 1))

        def disturbed(*arguments):
            if next(calls) == update:
                time.time = lambda: right() - HOUR
            return step(*arguments)

        return disturbed

    loop.mapped_step = mapped_step


INSIDE = {
    "clock": clock_set_back,
    "update": at_update,
    "checkpoint": at_checkpoint,
    "evaluation": at_evaluation,
    "disk": functools.partial(no_writing, errno.ENOSPC),
    "read-only": functools.partial(no_writing, errno.EROFS),
}


# --- around it


def images(workdir: pathlib.Path) -> pathlib.Path:
    """The folder of the images that the runs beside a workdir are trained on."""
    return workdir.parent / "images"


def start(workdir: pathlib.Path, fault: str = "", update: int = 0, *changes: str) -> subprocess.Popen:
    """Starts the run, with a fault inside or none."""
    program = [__file__, "--child", fault, str(update)] if fault else ["-m", "ssl_jax.main"]
    source = f"--config.data.source=folder:{images(workdir)}"
    command = [sys.executable, *program, *CONFIG, source, f"--workdir={workdir}", *changes]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


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


def _newest(workdir: pathlib.Path) -> pathlib.Path:
    """The folder of the newest checkpoint."""
    return max((p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


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


def _with_half_a_checkpoint(workdir: pathlib.Path) -> None:
    """As a machine leaves it that loses its power while it writes."""
    newest = _newest(workdir)
    shutil.copytree(newest, newest.with_name(f"{int(newest.name) + SAVE}.orbax-checkpoint-tmp"))


def _with_damaged_images(workdir: pathlib.Path) -> None:
    """The images as they were decoded, kept for the next start."""
    for path in pathlib.Path(os.environ["SSL_JAX_CACHE"]).glob("*.npz"):
        os.truncate(path, path.stat().st_size // 2)


def _with_other_images(workdir: pathlib.Path) -> None:
    """A start that is refused, with an image more; then it is taken away."""
    one = next((images(workdir) / "train" / "0").iterdir())
    more = one.with_name("more.png")
    shutil.copy(one, more)
    _refused(workdir, "training images: 1352 then, 1353 now")
    more.unlink()


def _with_another_image(workdir: pathlib.Path) -> None:
    """A start that is refused, with an image that was replaced by another one; then it is there again."""
    one, other = sorted((images(workdir) / "train" / "0").iterdir())[:2]
    right = one.read_bytes()
    one.write_bytes(other.read_bytes())
    _refused(workdir, "other content of the images")
    one.write_bytes(right)


def _with_another_config(workdir: pathlib.Path) -> None:
    """A start that is refused, with another learning rate."""
    _refused(workdir, "learning_rate", "--config.optim.default.learning_rate=9.0")


def _refused(workdir: pathlib.Path, words: str, *changes: str) -> None:
    status, told = end(start(workdir, "", 0, *changes))
    assert status == 2 and words in told and "Traceback" not in told, (status, told)


def ticking(workdir: pathlib.Path, random: random.Random) -> int:
    """A fault: the clock is set back by an hour during the run, which must not notice."""
    status, told = end(start(workdir, "clock", random.randrange(1, UPDATES)))
    assert status == 0, told
    return 0


def asleep(workdir: pathlib.Path, random: random.Random) -> int:
    """A fault: the process is stopped for some seconds, as by a machine that sleeps."""
    process, told, update = start(workdir), "", random.randrange(1, UPDATES)
    for line in process.stderr:
        told += line
        if reached(line) >= update:
            break
    process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    process.send_signal(signal.SIGCONT)
    status, rest = end(process)
    assert status == 0, told + rest
    return 0


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
    for path in _newest(workdir).rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    return finish(workdir, told)


def truncated(workdir: pathlib.Path, random: random.Random) -> int:
    """A fault: the largest file of the newest checkpoint loses its end, after a stop."""
    _, told = end(start(workdir, "update", random.randrange(SAVE + 1, UPDATES)))
    largest = max((p for p in _newest(workdir).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
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
    "clock set back an hour during the run": ticking,
    "process stopped for five seconds": asleep,
    "half a checkpoint left by a power cut": between(_with_half_a_checkpoint),
    "stored decoded images cut": between(_with_damaged_images),
    "an image more at the next start": between(_with_other_images),
    "an image replaced at the next start": between(_with_another_image),
    "another learning rate at the next start": between(_with_another_config),
}


def measure(times: int, workdir: pathlib.Path, record: pathlib.Path, only: str) -> None:
    """Injects every fault whose name fits so many times; adds a line to the record for each."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(workdir / "cache")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["SSL_JAX_CACHE"] = str(workdir / "cache")
    _write_images(workdir / "images")
    status, told = end(start(workdir / "undisturbed"))
    assert status == 0, told
    wanted = weights(workdir / "undisturbed")
    for name, inject in FAULTS.items():
        if not re.search(only, name):
            continue
        lost, equal = [], 0
        for number in range(times):
            folder = workdir / re.sub(r"\W+", "_", f"{name} {number}")
            lost.append(inject(folder, random.Random(number)))
            found = weights(folder)
            same = all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
            equal += same
            told = f"{name}, {number + 1} of {times}: {lost[-1]} updates lost, weights {'equal' if same else 'differ'}"
            print(told, file=sys.stderr, flush=True)
        with record.open("a") as file:
            of = {"jax": jax.__version__, "commit": circumstances()["commit"]}
            file.write(json.dumps({"fault": name, "lost": lost, "equal": equal} | of) + "\n")


def _write_images(folder: pathlib.Path) -> None:
    """The digits as a folder of files."""
    for split in ("train", "test"):
        d = data.load("digits", split)
        for row, (image, label) in enumerate(zip(d.images, d.labels, strict=True)):
            place = folder / split / d.classes[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(place / f"{row:04d}.png")


def page() -> str:
    """docs/faults.md with its table made of the record, the newest line of each fault."""
    rows = {row["fault"]: row for row in map(json.loads, RECORD.read_text().splitlines())}
    lines = ["| fault | times | updates lost | weights equal |", "|---|---|---|---|"]
    for name in FAULTS:
        if row := rows.get(name):
            lost, times = ", ".join(map(str, row["lost"])), len(row["lost"])
            lines.append(f"| {name} | {times} | {lost} | {row['equal']} of {times} |")
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1]


def command_line() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="of each fault")
    parser.add_argument("--only", default="", help="regular expression that the faults' names fit")
    parser.add_argument("--workdir", help="empty folder for the runs (default: a temporary one)")
    parser.add_argument("--record", type=pathlib.Path, default=RECORD, help="file to add to (default: %(default)s)")
    args = parser.parse_args()
    speak_plainly()
    with tempfile.TemporaryDirectory() as temporary:
        measure(args.times, pathlib.Path(args.workdir or temporary).absolute(), args.record, args.only)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        place, number, *rest = sys.argv[2:]
        INSIDE[place](int(number))
        processes.run(lambda argv: main.main([argv[0], *rest]))
    else:
        command_line()
