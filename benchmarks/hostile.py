"""What do awkward data sets, damaged files, degenerate settings and other projects' checkpoints lead to?

    python benchmarks/hostile.py [--only=WORDS]

Builds the smallest input of every row of the table in docs/reliability.md, gives it to the present code and compares
exit status and words with what is right. Commands run in this process, as their `main`; an error that no command
explains counts as status 1, and a row that takes longer than `PATIENCE` as status 124. Writes a line of JSON a row to
docs/hostile.jsonl.
"""

import argparse
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from typing import Any
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import ssl_jax
from ssl_jax import data, evaluate, export, main, recipes, report, run
from ssl_jax import embed as embedding
from ssl_jax.models.resnet import ResNet
from ssl_jax.runtime.errors import UserError
from ssl_jax.weights import arrays_file, torch_names
from ssl_jax.workdir.log import speak_plainly

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORD, PAGE = ROOT / "docs" / "hostile.jsonl", ROOT / "docs" / "reliability.md"
PATIENCE = 240  # seconds
FOLDERS = re.compile(r"(?<![\w.])(?:file://)?/(?:[^\s/]+/)+")  # of this machine
PROGRAMS = {
    "train": main.main,
    "evaluate": evaluate.main,
    "report": report.main,
    "embed": embedding.main,
    "export": export.main,
}
Outcome = tuple[int, str]


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of input.

    Attributes:
      given: the input, as the first column of the table says it.
      status: the right exit status.
      words: regular expression that what is said must fit.
      act: builds the input in the present folder, which is empty, and gives it to the code.
    """

    given: str
    status: int
    words: str
    act: Callable[[], Outcome]


# --- acting


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """Collects what goes to standard output and error, from Python and from the libraries below it."""
    found: list[str] = []
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush(), sys.stderr.flush()
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield found
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)
            file.seek(0)
            found.append(file.read().decode(errors="replace"))


def heard(act: Callable[[], Any]) -> Outcome:
    """Status and words of a function: what it returns is added to the words, an error of the user is status 2."""
    status, more = 0, ""
    with _heard() as found:
        try:
            more = str(act() or "")
        except UserError as error:
            status, more = error.status, f"Error: {error}"
        except Exception:
            status, more = 1, traceback.format_exc()
    return status, f"{found[0]}{more}"


def command(program: str, *arguments: str) -> Outcome:
    """Status and words of a command."""
    status = [1]

    def act() -> None:
        argv = [program, *arguments] if program == "train" else list(arguments)
        try:
            status[0] = PROGRAMS[program](argv)
        except SystemExit as error:
            status[0] = int(error.code or 0)

    wrong, told = heard(act)
    return wrong or status[0], told


def process(*arguments: str, **settings: str) -> Outcome:
    """Status and words of a process of its own."""
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, **settings})
    return done.returncode, done.stdout + done.stderr


NODES: list[str] = []


def tests(*nodes: str) -> Callable[[], Outcome]:
    """Tests of the suite that build the input; those of all rows run in one process."""
    NODES.extend(nodes)

    def act() -> Outcome:
        found = _tested()
        seen = {node: [line for line in found if node in line] for node in nodes}
        bad = [line for lines in seen.values() for line in lines if not line.startswith("PASSED")]
        missing = [node for node, lines in seen.items() if not lines]
        return int(bool(bad or missing)), f"{sum(map(len, seen.values()))} passed" if not bad else f"{bad} {missing}"

    return act


@functools.cache
def _tested() -> list[str]:
    """A line a test: PASSED, FAILED, SKIPPED ... and its name."""
    told = process(sys.executable, "-m", "pytest", "-q", "-rA", *(f"{ROOT}/tests/{node}" for node in NODES))[1]
    return [line for line in told.splitlines() if re.match(r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b", line)]


def then(*acts: Callable[[], Outcome]) -> Outcome:
    """Several, one after the other: the last status, and all words."""
    found = [act() for act in acts]
    return found[-1][0], "\n".join(f"[{status}] {told}" for status, told in found)


# --- inputs


def paint(name: str, pixels: Any = None, **options: Any) -> None:
    """Writes an image file: of these pixels, or of noise."""
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        seed = int.from_bytes(name.encode()[-8:], "big")
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(path, **options)


def folder(root: str, names: list[str] | None = None, colour: bool = False) -> None:
    """Writes images of two classes that can be told apart."""
    for name in names or [f"{s}/{c}/{i}.png" for s, n in (("train", 16), ("test", 4)) for c in "ab" for i in range(n)]:
        draw = np.random.default_rng(int.from_bytes(name.encode()[-8:], "big"))
        pixels = draw.integers(0, 128, (8, 8, 3) if colour else (8, 8)) + 100 * ("/b/" in name)
        paint(f"{root}/{name}", pixels.astype(np.uint8))


SMALL = ["--config.model.width=4", "--config.run.log_steps=1", "--config.run.eval_epochs=0.0"]
GROWING = [
    "--config=simclr:digits",
    "--config.data.source=folder:g",
    "--config.data.holdout=0.0",
    "--config.batch_size=32",
    "--config.epochs=4",
    *SMALL,
    "--workdir=r",
]
LABELLED = [
    "--config=simclr:digits",
    "--config.data.source=folder:images",
    "--config.batch_size=16",
    "--config.epochs=1",
    *SMALL,
    "--workdir=r",
]


def train(*changes: str) -> Outcome:
    return command("train", *GROWING, *changes)


def once(make: Callable[[], None]) -> Callable[[], None]:
    """Makes an input into the present folder, from a copy where it was made before."""
    kept: list[pathlib.Path] = []

    @functools.wraps(make)
    def made() -> None:
        if not kept:
            kept.append(pathlib.Path(tempfile.mkdtemp(dir=os.environ["HOSTILE_KEPT"])))
            with contextlib.chdir(kept[0]):
                make()
        shutil.copytree(kept[0], ".", dirs_exist_ok=True)

    return made


@once
def stopped() -> None:
    """A folder g of 64 images, and a run r on it that was stopped after 2 of 4 epochs."""
    for number in range(64):
        paint(f"g/{number:04}.png")
    status, told = train("--config.run.stop_epoch=2")
    assert status == 0, told


@once
def finished() -> None:
    """A folder of labelled images, and a run r on it that is done."""
    folder("images")
    status, told = command("train", *LABELLED)
    assert status == 0, told


def prepared(method: str = "simclr", **changes: Any) -> None:
    """Builds a run on digits with some values."""
    c = recipes.get_config(method, recipes.presets(method)[0])
    c.batch_size, c.epochs, c.model.width = 64, 1, 4
    with c.unlocked(), c.ignore_type():
        c.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    run.prepare(c, jax.devices()[:1])


def each(cases: list[tuple[str, dict[str, Any]]]) -> Outcome:
    """Builds a run with the values of each case; the worst status, and all words."""
    found = [heard(functools.partial(prepared, method, **changes)) for method, changes in cases]
    bad = [status for status, _ in found if status != 2]
    lines = [f"{m} {c}: [{s}] {told.strip()}" for (m, c), (s, told) in zip(cases, found, strict=True)]
    return bad[0] if bad else 2, "\n".join(lines)


def value(method: str = "simclr", /, **changes: Any) -> tuple[str, dict[str, Any]]:
    return method, changes


def loaded(split: str = "train", source: str = "folder:images", **options: Any) -> str:
    """What a split looks like, in words."""
    d = data.load(source, split, **options)
    pixels = d.images.pictures(8) if d.streamed else d.images
    levels = len(np.unique(pixels))
    return (
        f"{len(d)} images, {levels} levels, classes {d.classes}, labels {d.labels.tolist()}, shape {pixels.shape[1:]}"
    )


def loads(*ways: dict[str, Any]) -> Outcome:
    """Loads a folder in several ways."""
    return then(*(functools.partial(heard, functools.partial(loaded, **way)) for way in ways))


EITHER = ({"size": 8}, {"size": 8, "stream": True})


@contextlib.contextmanager
def small_disk(path: str, size: str = "24m") -> Iterator[pathlib.Path]:
    """A disk of a few megabytes, filled to its last byte by `fill`."""
    place = pathlib.Path(path)
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(place: pathlib.Path) -> None:
    """Takes all the room there is."""
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


# --- the rows: what a resume depends on


def grown() -> Outcome:
    stopped()
    for number in range(64):
        shutil.copy(f"g/{number:04}.png", f"g/{number + 64:04}.png")
    return train()


def replaced() -> Outcome:
    stopped()
    shutil.copy("g/0001.png", "g/0000.png")
    os.rename("g/0002.png", "g/zwei.png")
    return train()


def reclassed() -> Outcome:
    folder("images")
    first = command("train", *LABELLED, "--config.epochs=2", "--config.run.stop_epoch=1")
    shutil.copytree("images/train/a", "images/train/c")
    return then(lambda: first, lambda: command("train", *LABELLED, "--config.epochs=2"))


def lost_config() -> Outcome:
    stopped()
    os.unlink("r/config.json")
    return train("--config.optim.default.learning_rate=9.0", "--config.method.temperature=0.9", "--config.seed=3")


def damaged(name: str, contents: tuple[bytes, ...], act: Callable[[], Outcome], make: Any = stopped) -> Outcome:
    found = []
    for content in contents:
        shutil.rmtree("r", ignore_errors=True)
        make()
        pathlib.Path(name).write_bytes(content)
        found.append(functools.partial(lambda outcome: outcome, act()))
    return then(*found) if len({one()[0] for one in found}) == 1 else (99, str([one() for one in found]))


ONE = ("dino", "ibot", "dinov2", "simclr")
BROKEN = (b"", b'{"batch', b"null", b"{}", b'{"a": 1}', b"\xff\xfe")


def one_class_more() -> Outcome:
    return reclassed()


def longer() -> Outcome:
    stopped()
    return then(train, lambda: train("--config.epochs=6"))


def second_start() -> Outcome:
    """A process that holds the workdir, as a run does, is met by a start."""
    stopped()
    holding = "with lock.held('r', 'train'): print('held', flush=True); sys.stdin.read()"
    lines = f"import sys; from ssl_jax.workdir import lock\n{holding}"
    with subprocess.Popen(
        [sys.executable, "-c", lines],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as first:
        assert first.stdout and first.stdin and first.stdout.readline() == "held\n"
        before = pathlib.Path("r/metrics.jsonl").read_bytes()
        status, told = train()
        same = pathlib.Path("r/metrics.jsonl").read_bytes() == before
        first.kill()
    return then(lambda: (status, f"{told} (metrics.jsonl unchanged: {same})"), train)


# --- data


def fifo() -> Outcome:
    folder("images", ["a/0.png", "b/0.png"])
    os.mkfifo("images/a/f.png")
    os.symlink("..", "images/a/up")
    os.symlink("self.png", "images/a/self.png")
    return loads(*EITHER)


def splits(*names: str, to: str = "images") -> Outcome:
    folder(to, [f"{name}/{c}/{i}.png" for name in names for c in "ab" for i in range(4)])
    return loads(
        *({"source": f"folder:{to}", **way} for way in ({}, {"split": "test"}, {"split": "test", "stream": True}))
    )


def suffixes() -> Outcome:
    folder("images", ["a/0.png"])
    for name in ("x.npy", "x.dcm", "y.jp2", "y.heic"):
        pathlib.Path("images/a", name).write_bytes(b"-")
    Image.new("RGB", (8, 8)).save("images/a/y.jp2")
    return loads({})


def deep(kind: Any, low: float, high: float, suffix: str) -> Outcome:
    for number in "01":
        paint(f"images/a/{number}.{suffix}", np.linspace(low, high, 1024).reshape(32, 32).astype(kind))
    return loads({"size": 32}, {"size": 32, "stream": True})


def unsigned() -> Outcome:
    import tifffile

    os.makedirs("images/a")
    tifffile.imwrite("images/a/0.tif", np.linspace(0, 4e9, 1024).reshape(32, 32).astype(np.uint32))
    return loads({"size": 32}, {"size": 32, "stream": True})


def deep_colour() -> Outcome:
    import tifffile

    os.makedirs("images/a")
    ramp = np.linspace(0, 4095, 3072).reshape(32, 32, 3).astype(np.uint16)
    tifffile.imwrite("images/a/0.tiff", ramp)
    ppm = b"P6 32 32 65535\n" + ramp.astype(">u2").tobytes()
    pathlib.Path("images/a/1.ppm").write_bytes(ppm)
    return loads({}, {"stream": True})


def strip(height: int, width: int) -> Outcome:
    os.makedirs("images/a")
    paint("images/a/0.png", np.zeros((height, width), np.uint8))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.time()
    status, told = heard(lambda: loaded(size=224))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    quick = "quick" if time.time() - began < 10 and more < 500 else "slow"
    return status, f"{told} ({quick}: {time.time() - began:.1f} s, {more:.0f} MiB more)"


def archived(act: Callable[[tarfile.TarFile], None], *ways: dict[str, Any]) -> Outcome:
    with tarfile.open("images.tar", "w") as tar:
        act(tar)
    return loads(*({"source": "folder:images.tar", **way} for way in ways))


def member(tar: tarfile.TarFile, name: str, link: str = "", kind: bytes = tarfile.SYMTYPE) -> None:
    info = tarfile.TarInfo(name)
    if link:
        info.type, info.linkname = kind, link
        tar.addfile(info)
        return
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(out, "PNG")
    info.size = len(out.getvalue())
    tar.addfile(info, io.BytesIO(out.getvalue()))


def linked(tar: tarfile.TarFile) -> None:
    for name in ("a/0.png", "a/0.png", "b/0.png"):
        member(tar, name)
    member(tar, "b/hard.png", "a/0.png", tarfile.LNKTYPE)
    member(tar, "b/soft.png", "../a/0.png")
    member(tar, "b/out.png", "/etc/hostname")
    member(tar, "b/up.png", "../../../../etc/hostname")


def wrapped(tar: tarfile.TarFile) -> None:
    for split in ("train", "test"):
        for c in "ab":
            member(tar, f"data/x/{split}/{c}/0.png")


def grey(*more: str) -> Outcome:
    names = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(10)]
    for name in names:
        paint(f"grey/{name}", np.full((32, 32), len(name), np.uint8))
    if "colour" in more:
        paint("grey/train/a/0.png", np.full((32, 32, 3), (9, 99, 200), np.uint8))
    changes = [
        "--config.data.source=folder:grey",
        "--config.data.size=32",
        "--config.batch_size=16",
        "--config.epochs=1",
    ]
    common = ["--config=rotation:cifar10", *changes, *SMALL, "--config.model.name=resnet18"]
    ways = (["--workdir=r1"], ["--workdir=r2", "--config.data.stream=always", "--config.data.workers=0"])
    return then(*(functools.partial(command, "train", *common, *way) for way in ways))


def decoded_cache() -> Outcome:
    """Decoded images are kept; then the file changes with its size and time set back."""
    folder("images", ["a/0.png", "a/1.png"])
    first = loaded()
    before = os.stat("images/a/0.png")
    content = np.asarray(Image.open("images/a/1.png"))
    paint("images/a/0.png", content)
    with open("images/a/0.png", "ab") as file:
        file.write(bytes(max(0, before.st_size - os.stat("images/a/0.png").st_size)))
    os.utime("images/a/0.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    d = data.load("folder:images", "train")
    fresh = np.array_equal(d.images[0], d.images[1])
    return 0 if fresh else 1, f"{first}; the new pixels: {fresh}"


def several_pages() -> Outcome:
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 20, 30)]
    os.makedirs("images/a")
    frames[0].save("images/a/0.tif", save_all=True, append_images=frames[1:])
    frames[0].save("images/a/1.gif", save_all=True, append_images=frames[1:])
    return loads({}, {"pages": "all"}, {"pages": "all", "stream": True, "size": 8})


def bands() -> Outcome:
    import tifffile

    os.makedirs("images/a")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 4096, (8, 8, 6)).astype(np.uint16)
        tifffile.imwrite(f"images/a/{number}.tif", pixels, photometric="minisblack", planarconfig="contig")
    return loads({}, {"channels": (4, 0, 1, 2, 5)}, {"channels": (4, 0, 1, 2, 5), "stream": True, "size": 8})


def in_the_way() -> Outcome:
    finished()
    acts = []
    for name, act in (
        ("config.json", lambda: command("train", *LABELLED)),
        ("metrics.jsonl", lambda: command("train", *LABELLED)),
        ("results.json", lambda: command("evaluate", "--workdir=r", "--evals=health")),
    ):
        os.rename("r", f"r_{name}")
        finished()
        pathlib.Path("r", name).unlink(missing_ok=True)
        os.makedirs(f"r/{name}")
        acts.append(functools.partial(lambda found: found, act()))
        shutil.rmtree("r")
        os.rename(f"r_{name}", "r")
    shutil.rmtree("r/checkpoints")
    pathlib.Path("r/checkpoints").write_text("x")
    return then(*acts, lambda: command("train", *LABELLED))


def no_text() -> Outcome:
    folder("images")
    for split in ("train", "test"):
        os.rename(f"images/{split}/b", os.fsdecode(f"images/{split}/".encode() + b"\xff\n"))
    return then(
        lambda: command("train", *LABELLED),
        lambda: command("embed", "--workdir=r", "--out=x.csv"),
        lambda: command("report", "--workdir=r"),
    )


def promising() -> Outcome:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000, 3), }".ljust(117) + b"\n"
    os.makedirs("images/a")
    pathlib.Path("images/a/0.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + header)
    return loads({}, {"stream": True, "size": 8})


def not_what_it_is_called() -> Outcome:
    folder("images", ["a/0.png", "b/0.png"])
    shutil.make_archive("images", "gztar", "images")
    os.rename("images.tar.gz", "images.tar")
    return loads(*({"source": "folder:images.tar", **way} for way in EITHER))


def no_view() -> Outcome:
    first_layer()
    given = ("--import=w.npz", "--arch=resnet18", "--out=n.npz", "--mean=.5", "--size=32")
    return then(*(functools.partial(command, "export", *given, *a) for a in (["--std=0"], ["--std=.2", "--centre=0"])))


def cut_cache() -> Outcome:
    folder("images", ["a/0.png", "a/1.png"])
    first = heard(lambda: loaded(cache="cache"))
    (stored,) = pathlib.Path("cache").glob("*.npz")
    os.truncate(stored, stored.stat().st_size // 2)
    return then(
        lambda: first, lambda: heard(lambda: loaded(cache="cache")), lambda: heard(lambda: loaded(cache="cache"))
    )


def stacks() -> Outcome:
    import tifffile

    os.makedirs("images/a")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 8, 8)).astype(np.uint8)
        tifffile.imwrite(f"images/a/{number}.tif", pixels, photometric="minisblack")
    chosen = {"channels": (3, 0), "pages": "channels"}
    return loads({"channels": (3, 0)}, chosen, {**chosen, "stream": True, "size": 8})


def zipped() -> Outcome:
    folder("images", ["a/0.png", "b/0.png"])
    shutil.make_archive("images", "zip", "images")
    with zipfile.ZipFile("images.zip", "a") as archive:
        archive.writestr("../out.png", b"-")
    return loads(*({"source": "folder:images.zip", **way} for way in EITHER))


def outside(tar: tarfile.TarFile) -> None:
    for name in ("a/0.png", "/b/0.png", "../out.png", "a/../../more.png"):
        member(tar, name)
    member(tar, "b/up.png", "../../etc/x.png")


def tabled() -> Outcome:
    folder("images", [f"{i}.png" for i in range(4)])
    pathlib.Path("labels.csv").write_text("file,kind\n0.png,cat\n1.png,dog\n2.png,cat\n")
    pathlib.Path("wide.csv").write_text("0.png,1,0,0\n")
    return loads({"labels": "labels.csv"}, {"labels": "labels.csv", "stream": True}, {"labels": "wide.csv"})


def phones() -> Outcome:
    os.makedirs("images/a")
    pathlib.Path("images/a/0.heic").write_bytes(b"x")
    return loads({})


def unreadable() -> Outcome:
    os.makedirs("images/a")
    pathlib.Path("images/a/0.png").write_bytes(b"x")
    return loads({})


def too_large() -> Outcome:
    folder("images", ["a/0.png", "a/1.png"])
    paint("images/a/0.png", np.zeros((100, 100), np.uint8))
    return loads({"max_pixels": 1000})


# --- settings


def warm_up() -> Outcome:
    return command(
        "train",
        "--config=simclr:digits",
        "--config.epochs=2",
        "--config.optim.default.warmup_epochs=10.0",
        *SMALL,
        "--workdir=r",
    )


def single_class() -> Outcome:
    folder("images", [f"{s}/a/{i}.png" for s in ("train", "test") for i in range(16)])
    return then(
        lambda: command("train", *LABELLED),
        lambda: command("evaluate", "--workdir=r", "--evals=health"),
        lambda: command("evaluate", "--workdir=r", "--evals=knn"),
        lambda: command("train", "--config=supervised:digits", *LABELLED[1:-1], "--workdir=s"),
    )


# --- our own files


def features_of_zero_bytes() -> Outcome:
    finished()
    first = command("evaluate", "--workdir=r", "--evals=knn")
    for number, path in enumerate(sorted(pathlib.Path("r/features").iterdir())):
        os.truncate(path, 0 if number % 2 else path.stat().st_size // 2)
    return then(lambda: first, lambda: command("evaluate", "--workdir=r", "--evals=knn"))


def odd_metrics() -> Outcome:
    finished()
    with open("r/metrics.jsonl", "ab") as file:
        file.write(b'null\n3\n{"a": 1}\n\xff\xfe\n{"step": "x", "epoch": 1}\n{"step": 4')
    return command("report", "--workdir=r")


def full(program: str, *arguments: str, old: str) -> Outcome:
    """A program on a full disk where an older file of its own lies."""
    finished()
    with small_disk("disk") as place:
        shutil.copytree("r", place / "r")
        (place / old).write_bytes(b"old" * 3000)
        fill(place)
        status, told = command(program, *arguments)
        whole = (place / old).read_bytes() == b"old" * 3000
        return status, f"{told} (the old file is whole: {whole})"


def full_training() -> Outcome:
    stopped()
    with small_disk("disk") as place:
        shutil.copytree("r", place / "r")
        fill(place)
        first = command("train", *GROWING[:-1], f"--workdir={place}/r")
        (place / "filler").unlink()
        return then(lambda: first, lambda: command("train", *GROWING[:-1], f"--workdir={place}/r"))


def read_only() -> Outcome:
    stopped()
    with small_disk("disk") as place:
        shutil.copytree("r", place / "r")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        began = time.time()
        status, told = command("train", *GROWING[:-1], f"--workdir={place}/r")
        return status, f"{told} ({'at once' if time.time() - began < 60 else 'late'})"


def same_features(number: float) -> Outcome:
    finished()
    from ssl_jax.weights import Backbone

    right = Backbone.__call__

    def constant(self: Any, *args: Any, **options: Any) -> np.ndarray:
        return np.full_like(right(self, *args, **options), number)

    Backbone.__call__ = constant  # type: ignore[method-assign]
    try:
        return command("report", "--workdir=r")
    finally:
        Backbone.__call__ = right  # type: ignore[method-assign]


def huge_rate() -> Outcome:
    folder("images")
    rate = ["--config.optim.default.learning_rate=1e9", "--config.run.save_epochs=0.01"]
    return then(lambda: command("train", *LABELLED, *rate), lambda: command("report", "--workdir=r"))


def dollars() -> Outcome:
    folder(
        "images",
        [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("$x_{$", "<b>&\N{SNOWMAN}\u4e2d") for i in range(8)],
    )
    return then(lambda: command("train", *LABELLED), lambda: command("report", "--workdir=r"))


def own_configs() -> Outcome:
    os.makedirs("configs")
    pathlib.Path("configs/__init__.py").write_text("raise ImportError('not the package')\n")
    pathlib.Path("configs/simclr.py").write_text("x = 1\n")
    return process(sys.executable, "-m", "ssl_jax", "presets", "simclr", PYTHONPATH=str(ROOT))


# --- export and import


def first_layer() -> Outcome:
    m = ResNet("resnet18", 4, "imagenet")
    v = m.init(jax.random.key(0), jnp.zeros((1, 64, 64, 1)), train=False)
    np.savez("w.npz", **torch_names.to_torch(v["params"], v["batch_stats"], m, "torchvision", 64))
    given = ("--import=w.npz", "--arch=resnet18", "--out=o.npz", "--size=64")
    status, told = command("export", *given)
    second = command("export", *given, "--mean=.5", "--std=.2")
    shape = ssl_jax.load_backbone("o.npz")(np.zeros((2, 70, 70, 1), np.uint8)).shape
    return status, f"{told} then [{second[0]}] {shape}"


def descriptions() -> Outcome:
    texts = (
        "",
        "null",
        "{}",
        '{"network": 3}',
        '{"network": {"class": "resnet.ResNet", "name": 7}}',
        "[",
        '{"view": {}}',
    )
    found = []
    for text in texts:
        arrays_file.write(pathlib.Path("b.npz"), {"params/a": np.zeros(2)}, text)
        found.append(command("evaluate", "--backbone=b.npz", "--data=digits", "--workdir=e", "--evals=knn"))
    return max((s for s, _ in found), key=lambda s: s != 2), "\n".join(t for _, t in found)


def quiet_backbone() -> Outcome:
    finished()
    status, told = heard(lambda: ssl_jax.load_backbone("r") and None)
    words = repr(ssl_jax.load_backbone("r"))
    return (
        status,
        f"said: '{told}'; repr of {'few' if len(words) < 300 and chr(10) not in words else 'many'} characters",
    )


def given_backbone() -> Outcome:
    finished()
    backbone = ssl_jax.load_backbone("r")
    one = Image.open("images/train/a/0.png")
    shapes = [backbone(x).shape for x in (["images/train/a/0.png"], [one])]
    status, told = heard(lambda: backbone({"a": 1}))
    return status, f"{shapes} {told}"


def other_data() -> Outcome:
    folder("images", [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(16)])
    stream = ["--config.data.stream=always", "--config.data.workers=0", "--config.data.size=8"]
    views = [f"--config.method.view{n}.{f}" for n in (1, 2) for f in ("size=8", "blur=0.0")]
    return then(
        lambda: command("train", "--config=simclr:folder:images", *LABELLED[1:], *stream, *views),
        lambda: command("evaluate", "--workdir=r", "--data=digits", "--evals=knn"),
    )


def embedded_deep() -> Outcome:
    for split in ("train", "test"):
        for number in range(16):
            draw = np.random.default_rng(number + 99 * (split == "test"))
            paint(f"images/{split}/a/{number}.png", draw.integers(0, 4096, (8, 8)).astype(np.uint16))
    first = command("train", *LABELLED)
    found = [ssl_jax.embed("r", name).features for name in ("images",)]
    own = ssl_jax.embed("r").features
    return first[0], f"{first[1]} the same features as the run's own: {np.allclose(found[0], own, atol=1e-5)}"


def unset() -> Outcome:
    folder("images")
    return command(
        "train", *LABELLED, "--config.data.per_class=2", "--config.data.per_class=None", "--config.data.size=None"
    )


def slice_flags() -> Outcome:
    os.makedirs("bin")
    for name in ("gcloud",):
        pathlib.Path("bin", name).write_text("#!/bin/sh\nexit 0\n")
        os.chmod(f"bin/{name}", 0o755)
    path = f"{os.getcwd()}/bin:{os.environ['PATH']}"
    return process(
        "bash", f"{ROOT}/launch/tpu_vm.sh", "run", "--acelerator=v5litepod-16", "--workdir=gs://b/r", PATH=path
    )


def hostile_pickle() -> Outcome:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("touch executed",)

    pathlib.Path("e.pth").write_bytes(pickle.dumps({"conv1.weight": Evil()}))
    with open("e.npz", "wb") as file:
        np.savez(file, **{"conv1.weight": np.array([Evil()], object)})
    found = [command("export", f"--import=e.{end}", "--arch=resnet18", "--out=o.npz") for end in ("pth", "npz")]
    return max(s for s, _ in found), f"{found} executed: {os.path.exists('executed')}"


WIDTHS = [value(**{"model.width": n}) for n in (0, -1)] + [
    value("mocov3", **{"model.patch": n, "model.name": "vit_tiny"}) for n in (0, -1)
]
SILENT = [
    value(**{"optim.default.learning_rate": -1.0}),
    value(**{"optim.default.weight_decay": -1.0}),
    value(**{"model.bn_groups": 0}),
    value(**{"model.bn_groups": -1}),
    value("swav", **{"method.small_crops": -1}),
    value(**{"data.workers": -1}),
    value(**{"data.eval_centre": 0.0}),
    value(**{"method.temperature": 0.0}),
]
RAISING = [
    value(seed=-1),
    value(**{"run.eval_epochs": float("inf")}),
    value(**{"run.eval_images": -5}),
    value(**{"data.eval_centre": float("nan")}),
    value("mocov2", **{"method.queue_size": 0}),
    value("swav", **{"method.iterations": 0}),
    value("swav", **{"method.prototypes": 0}),
    *WIDTHS,
    value(**{"model.heads": -1}),
    value(**{"method.out": 0}),
    value(**{"method.hidden": (0,)}),
]

ROWS = [
    Row("the folder of a stopped run grew from 64 to 128 images", 2, "training images: 64 then, 128 now", grown),
    Row("an image of a stopped run replaced, another renamed", 2, "other content of the images", replaced),
    Row("a new class folder in the images of a stopped run", 2, "classes: 2 then, 3 now", reclassed),
    Row(
        "`config.json` lost, and another learning rate, temperature and seed given",
        2,
        r"(?=.*learning_rate)(?=.*temperature)(?=.*seed: 0 there, 3 now)",
        lost_config,
    ),
    Row(
        "`config.json` empty, cut, `null`, `{}` or of something else",
        0,
        r"config\.json\.damaged",
        lambda: damaged("r/config.json", BROKEN, train),
    ),
    Row("`images.json` cut", 0, "Resuming after update 4", lambda: damaged("r/images.json", (b"", b"{"), train)),
    Row("`epochs` of a finished run raised", 0, r"goes on to 6", longer),
    Row(
        "a second start while the first runs; then again after a `kill -9` of the first",
        0,
        r"(?s)\[2\].*is in use by another train: process \d+ on .*unchanged: True.*\[0\].*takes over",
        second_start,
    ),
    Row(
        "splits called `Train` and `Test`", 0, r"(?s)8 images.*\('a', 'b'\).*8 images", lambda: splits("Train", "Test")
    ),
    Row(
        "splits called `training` and `validation`",
        0,
        r"(?s)8 images.*\('a', 'b'\).*8 images",
        lambda: splits("training", "validation"),
    ),
    Row(
        "splits called `train2017` and `val2017`, or `Training Images` and `test-images`",
        0,
        r"(?s)(8 images.*\('a', 'b'\).*){3}\[0\].*(8 images.*\('a', 'b'\).*){3}",
        lambda: then(lambda: splits("train2017", "val2017"), lambda: splits("Training Images", "test-images", to="y")),
    ),
    Row(
        "splits below a wrapping folder: `dataset/train`, `dataset/test`",
        0,
        r"(?s)8 images.*\('a', 'b'\).*8 images",
        lambda: splits("dataset/train", "dataset/test"),
    ),
    Row(
        "a tar of `data/x/train/...`",
        0,
        r"(?s)2 images.*\('a', 'b'\).*2 images",
        lambda: archived(wrapped, {}, {"split": "test"}),
    ),
    Row(
        "`unlabeled/` and `spare/` beside `train/` and `test/`",
        0,
        r"(?s)left out 8 images beside the splits.*16 images.*-1, -1",
        lambda: splits("train", "test", "unlabeled", "spare"),
    ),
    Row(
        "a pipe `f.png`, a link to a folder around it, and one to itself",
        0,
        r"(?s)left out 2 names that lead to no file.*2 images.*2 images",
        fifo,
    ),
    Row(
        "files `.npy`, `.dcm`, `.jp2`, `.heic` among the images",
        0,
        r"(?s)left out 3 files that are no images.*2 images",
        suffixes,
    ),
    Row(
        "a tar with links, links to outside it, and a member stored twice",
        0,
        r"(?s)4 images.*4 images",
        lambda: archived(linked, *EITHER),
    ),
    Row(
        "16-bit grey from 0 to 4095",
        0,
        "(?s)pixels from 0 to 4095 become 0 to 255.*256 levels.*256 levels|256 levels",
        lambda: deep(np.uint16, 0, 4095, "png"),
    ),
    Row(
        "16-bit grey from 0 to 10,000",
        0,
        "pixels from 0 to 16383 become 0 to 255.*\\n?.*15\\d levels",
        lambda: deep(np.uint16, 0, 10000, "png"),
    ),
    Row(
        "a TIFF of 32-bit floating-point pixels",
        0,
        r"(?s)become 0 to 255.*25\d levels",
        lambda: deep(np.float32, -7, 93, "tif"),
    ),
    Row(
        "a TIFF of signed pixels",
        0,
        r"(?s)pixels from -2000 to 3000 become.*25\d levels",
        lambda: deep(np.int32, -2000, 3000, "tif"),
    ),
    Row(
        "a TIFF of 32-bit whole numbers without sign",
        0,
        r"(?s)pixels from \d\S* to [34]\S* become.*25\d levels.*pixels from \d\S* to [34]\S* become",
        unsigned,
    ),
    Row(
        "a folder that cannot be listed",
        0,
        "passed",
        tests("test_folders.py::test_folders_that_cannot_be_listed_are_said"),
    ),
    Row(
        "16-bit colour from 0 to 4095 (`.tiff`, `.ppm`)",
        0,
        r"(?s)pixels from 0 to 4095 become.*25\d levels",
        deep_colour,
    ),
    Row("a run on 16-bit images, then `embed` of them", 0, "run's own: True", embedded_deep),
    Row("a 3 x 60000 image at size 224", 0, r"\(quick", lambda: strip(3, 60000)),
    Row("a 1 x 60000 image at size 224", 0, r"\(quick", lambda: strip(60000, 1)),
    Row("grey images with a preset of colour, resident and streamed", 0, r"(?s)\[0\].*\[0\]", grey),
    Row("one colour image among 19 grey ones", 0, r"(?s)\[0\].*\[0\]", lambda: grey("colour")),
    Row(
        "several pages or frames",
        0,
        r"(?s)some images have several frames or pages.*2 images.*6 images.*6 images",
        several_pages,
    ),
    Row("a TIFF of six channels", 0, r"(?s)\[2\].*data\.channels.*shape \(8, 8, 5\).*shape \(8, 8, 5\)", bands),
    Row("no image can be read", 2, r"can be read \(a/0.png: cannot identify", unreadable),
    Row("an image of more pixels than `data.max_pixels`", 0, "more than data.max_pixels", too_large),
    Row("an image changed whose size and time were set back", 0, "new pixels: True", decoded_cache),
    Row(
        "a tfds data set of several images or labels",
        0,
        "passed",
        tests("test_sources.py::test_of_several_image_features_the_one_called_image_is_taken"),
    ),
    Row(
        "one image a micro-batch (`accumulate=64`, `batch_size=1`) where the loss compares images",
        2,
        r"(?s)accumulate=64 leaves one.*accumulate_loss='whole'.*batch_size=1",
        lambda: each([value(accumulate=64), value(batch_size=1)]),
    ),
    Row(
        "one image a micro-batch where BatchNorm or the negatives are of the others (`byol`, `simsiam`, `mocov3`, ...)",
        2,
        r"(?s)(\[2\].*leaves one: make it at least 2.*){7}",
        lambda: each(
            [value(m, batch_size=1) for m in ("byol", "simsiam", "mocov3", "nnclr", "swav", "wmse", "supcon")]
        ),
    ),
    Row(
        "one prototype (`dino`, `ibot`, `dinov2`, `msn`), one dimension of a direction (`simclr`)",
        2,
        r"(?s)(\[2\].*it must be at least 2.*){5}",
        lambda: each([*(value(m, method__out=1) for m in ONE), value("msn", method__prototypes=1)]),
    ),
    Row("a warm-up longer than the run", 0, "the rate reaches 20 % of its peak", warm_up),
    Row("a single class", 2, r"(?s)\[0\].*\[0\].*\[2\].*\[2\].*a single class", single_class),
    Row(
        "eight values that were taken in silence (`learning_rate=-1`, `bn_groups=0`, `eval_centre=0`, ...)",
        2,
        "learning_rate is -1",
        lambda: each(SILENT),
    ),
    Row(
        "14 values that led to a traceback (`seed=-1`, `queue_size=0`, `model.width=0`, ...)",
        2,
        "seed is -1",
        lambda: each(RAISING),
    ),
    Row("an optional field that a start gave, unset on the command line", 0, "32 training images", unset),
    Row("`evaluate --data=digits` of a run with `data.stream=always`", 0, "knn/top1|kNN", other_data),
    Row(
        "`results.json` empty, cut or of something else",
        0,
        r"results\.json\.damaged|is damaged",
        lambda: damaged(
            "r/results.json",
            (b"", b"{", b"null", b"[1]"),
            lambda: command("evaluate", "--workdir=r", "--evals=health"),
            finished,
        ),
    ),
    Row(
        "a features file of zero bytes, or cut",
        0,
        r"(?s)\[0\].*\[0\].*(damaged|cannot be read)",
        features_of_zero_bytes,
    ),
    Row("odd lines in `metrics.jsonl`", 0, "The report is", odd_metrics),
    Row(
        "a full disk under `report`",
        2,
        r"(?s)No space left.*whole: True",
        lambda: full("report", "--workdir=disk/r", old="r/report.html"),
    ),
    Row(
        "a full disk under `export`",
        2,
        r"(?s)(No space left|disk is full).*whole: True",
        lambda: full("export", "--workdir=disk/r", "--format=npz", old="r/backbone.npz"),
    ),
    Row("a full disk under training", 0, r"(?s)\[2\].*No space left.*\[0\].*Resuming after update 4", full_training),
    Row("a workdir that cannot be written", 2, r"(?s)cannot be written.*at once", read_only),
    Row(
        "a learning rate of 1e9, a checkpoint each update, then the report",
        0,
        r"(?s)\[0\].*\[0\].*The report is",
        huge_rate,
    ),
    Row("features that are all zero, in the report", 0, "The report is", lambda: same_features(0.0)),
    Row("features that are not finite, in the report", 0, "The report is", lambda: same_features(np.nan)),
    Row("classes named `$x_{$` and of glyphs that a font lacks", 0, "The report is", dollars),
    Row("a folder `configs` of the user's own", 0, "simclr", own_configs),
    Row("an import whose first layer has not 3 channels", 2, r"--mean.*\n?.*\[0\] \(2, 32\)", first_layer),
    Row("a damaged description in an exported file (7 kinds)", 2, "describes no backbone", descriptions),
    Row(
        "checkpoints of solo-learn, mmselfsup, lightly, byol-pytorch, Hugging Face, I-JEPA, fine-tuned MAE",
        0,
        "passed",
        tests("test_layouts.py"),
    ),
    Row(
        "a checkpoint of DINOv2 (registers, LayerScale)",
        0,
        "passed",
        tests(
            "test_weights.py::test_registers_of_other_projects", "test_weights.py::test_the_card_builds_dinov2s_network"
        ),
    ),
    Row("starting from given weights", 0, "passed", tests("test_init_from.py")),
    Row("`load_backbone` of a run", 0, "said: ''; repr of few", quiet_backbone),
    Row(
        "a path, a Pillow image, a dict given to a loaded backbone",
        2,
        r"\[\(1, \d+\), \(1, \d+\)\] .*dict",
        given_backbone,
    ),
    Row("`.pth` and `.npz` files whose pickles run commands", 2, "executed: False", hostile_pickle),
    Row("`tpu_vm.sh run` with a misspelt flag", 2, "acelerator", slice_flags),
    Row("stored decoded images cut", 0, r"(?s)are made anew.*2 images", cut_cache),
    Row(
        "more stored decoded images than 32 GiB",
        0,
        "passed",
        tests("test_data.py::test_the_cache_does_not_grow_without_end"),
    ),
    Row(
        "colour of more than 8 bits in `.jp2` and `.avif`",
        0,
        "passed",
        tests("test_pixels.py::test_what_pillow_hides_is_said"),
    ),
    Row(
        "a TIFF whose pages are channels", 0, r"(?s)\[2\].*has 1 channel.*shape \(8, 8, 2\).*shape \(8, 8, 2\)", stacks
    ),
    Row("nothing but `.heic` files", 2, "pip install pillow-heif|cannot identify", phones),
    Row(
        "a `.zip` of images, one of them outside of it",
        0,
        r"(?s)left out: 1 outside of it.*2 images.*labels \[0, 1\].*2 images.*labels \[0, 1\]",
        zipped,
    ),
    Row(
        "a tar with members `../x.png` and `/b/x.png`, and a link to outside it",
        0,
        "(?s)2 lie outside of it and are left out, 1 lead to no file in it and are left out, 1 are named from / on.*"
        r"2 images.*labels \[0, 1\].*2 images.*labels \[0, 1\]",
        lambda: archived(outside, *EITHER),
    ),
    Row(
        "labels in a CSV file, where an image has no row; and one of four columns",
        2,
        r"(?s)1 images have no row.*\('cat', 'dog'\), labels \[-1, 0, 0, 1\].*labels \[-1, 0, 0, 1\].*it must have two",
        tabled,
    ),
    Row(
        "`data.path` with data that come in a package (`digits`)",
        2,
        "config.data.path is '/images', where digits is not looked for",
        lambda: each([value(data__path="/images")]),
    ),
    Row(
        "`data.workers=100000`",
        2,
        "data.workers is 100000: it must be at most 512",
        lambda: each([value(data__workers=100_000)]),
    ),
    Row(
        "milestones and frozen epochs beyond the run",
        0,
        "passed",
        tests("test_limits.py::test_what_lies_beyond_the_run_is_said"),
    ),
    Row(
        "an error in the package's own code while a run is built",
        0,
        "passed",
        tests("test_limits.py::test_only_errors_of_the_configs_values_become_sentences"),
    ),
    Row(
        "a power cut while a file is written",
        0,
        "passed",
        tests("test_files.py::test_it_is_on_disk_before_it_has_its_name"),
    ),
    Row(
        "a section of the report that fails",
        0,
        "passed",
        tests("test_files.py::test_a_section_that_fails_does_not_cost_the_page"),
    ),
    Row(
        "an export that would give other features than the network, or no numbers",
        0,
        "passed",
        tests(
            "test_layouts.py::test_an_onnx_file_that_gives_other_features_is_not_written",
            "test_layouts.py::test_what_gives_no_numbers_is_not_written",
        ),
    ),
    Row("embeddings by file name", 0, "passed", tests("test_embed.py::test_files")),
    Row(
        "a folder called `config.json`, `metrics.jsonl` or `results.json`, a file called `checkpoints`",
        2,
        r"(?s)(cannot be used.*){4}",
        in_the_way,
    ),
    Row(
        "`val/`, `valid/` and `dev/` side by side",
        0,
        "dev/, val/, valid/ are taken together",
        lambda: splits("train", "val", "valid", "dev"),
    ),
    Row("names of classes and files that are no text", 0, r"(?s)\[0\].*\[0\].*\[0\].*The report is", no_text),
    Row(
        "a `.npy` of 128 bytes whose header promises three terabytes",
        2,
        r"(?s)more than it holds.*more than it holds",
        promising,
    ),
    Row("a compressed archive called `.tar`", 2, r"(?s)\[0\] 2 images.*\[2\].*is compressed", not_what_it_is_called),
    Row("an import with `--std=0` or `--centre=0`", 2, r"(?s)no view of an image.*no view of an image", no_view),
]


def act(row: Row) -> Outcome:
    """The outcome of a row in a folder of its own."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {PATIENCE} s")

    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        signal.alarm(PATIENCE)
        try:
            return row.act()
        except TimeoutError as error:
            return 124, str(error)
        except Exception:
            return 1, traceback.format_exc()
        finally:
            signal.alarm(0)


def right(row: Row, status: int, told: str) -> bool:
    """Whether an outcome is what it should be, in words and without a traceback."""
    return status == row.status and bool(re.search(row.words, told)) and "Traceback" not in told


def measure(only: str, record: pathlib.Path) -> int:
    """Acts on every row whose input fits; returns how many outcomes are wrong."""
    wrong = 0
    for row in ROWS:
        if not re.search(only, row.given):
            continue
        began = time.time()
        status, told = act(row)
        good = right(row, status, told)
        wrong += not good
        sys.stderr.write(f"{'ok   ' if good else 'WRONG'} {time.time() - began:5.1f} s  [{status}] {row.given}\n")
        if not good:
            sys.stderr.write(f"      wanted [{row.status}] {row.words}\n{told[-3000:]}\n")
        sys.stderr.flush()
        said = FOLDERS.sub("", " ".join(told.split()))
        with record.open("a") as file:
            file.write(json.dumps({"input": row.given, "status": status, "right": good, "said": said[-300:]}) + "\n")
    return wrong


def documented() -> list[str]:
    """First column of the table in docs/reliability.md."""
    table = PAGE.read_text().split("| input | before | now |\n|---|---|---|\n")[1].split("\n\n")[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()]


def command_line() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression that the rows' inputs fit")
    parser.add_argument("--record", type=pathlib.Path, default=RECORD, help="file to add to (default: %(default)s)")
    args = parser.parse_args()
    speak_plainly()
    with tempfile.TemporaryDirectory() as kept:
        os.environ["HOSTILE_KEPT"] = kept
        os.environ["SSL_JAX_CACHE"] = f"{kept}/cache"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{kept}/programs")
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        return int(bool(measure(args.only, args.record)))


if __name__ == "__main__":
    sys.exit(command_line())
