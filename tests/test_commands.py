"""The command `ssl_jax`, what --config may be, methods and folders of the user's own, and the wheel."""

import glob
import json
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import numpy as np
from PIL import Image
import pytest

import ssl_jax
from ssl_jax import __main__ as commands
from ssl_jax import command_line, models, recipes
from ssl_jax.evals import find
from ssl_jax.methods import build
from ssl_jax.recipes import table
from ssl_jax.runtime import platforms
from ssl_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = ("--config.epochs=2", "--config.batch_size=128", "--config.model.width=4", "--config.run.eval_epochs=0")


def python(*arguments, folder, path=ROOT):
    """Runs Python in a folder, the package found at `path`."""
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True
    )


# --- what lists


@pytest.mark.fast
def test_methods_are_listed_by_family(capsys):
    assert commands.main(["methods"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^joint$", printed, re.M) and re.search(r"^  simclr +SimCLR: two views", printed, re.M)
    assert all(re.search(rf"^  {name} +\S", printed, re.M) for name in build.names())


@pytest.mark.fast
def test_presets_are_listed_with_source_and_result(capsys):
    assert commands.main(["presets", "simsiam"]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("| imagenet"))
    assert "README of facebookresearch/simsiam" in row and "linear 67.7 %; linear 68.1 % (with N = 256)" in row
    assert [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")][2:] == recipes.presets(
        "simsiam"
    )
    assert "- linear: top-1 of a linear classifier" in printed


@pytest.mark.fast
def test_the_documentation_has_the_published_results():
    """`python -m ssl_jax presets > docs/recipes.md` writes it anew."""
    assert (ROOT / "docs" / "recipes.md").read_text() == table.text(build.names()) + "\n"


@pytest.mark.fast
def test_a_config_is_listed_as_the_command_line_takes_it(capsys):
    assert commands.main(["config", "simclr:digits", "--config.epochs=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "--config.epochs=3" in lines and "--config.method.view1.size=8" in lines
    named = [line.split("=")[0] for line in lines]
    config = command_line.load("simclr:digits")
    assert named == [f"--config.{name}" for name in sorted(command_line.fields(config))]


@pytest.mark.fast
def test_what_differs_from_the_defaults_is_listed(capsys):
    assert commands.main(["config", "simclr:digits", "--config.epochs=3", "--diff"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"--config.epochs=3", "--config.data.source=digits", "--config.model.name=convnet"} <= set(lines)
    assert not [line for line in lines if line.startswith(("--config.seed", "--config.model.stem", "--config.batch"))]
    assert "--config.method.temperature=0.2" in lines  # the class has another default


@pytest.mark.fast
def test_evaluations_are_listed(capsys):
    assert commands.main(["evals"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == list(find.evaluations())
    assert "Needs labels, test images." in lines["knn"] and "Only where it is named." in lines["fine_tune"]


@pytest.mark.fast
def test_folders_and_configs_need_no_name():
    named = ["--config=simclr:digits", "--workdir=runs/a", "--config.epochs=3"]
    assert command_line.with_names(["simclr:digits", "runs/a", "--config.epochs=3"], "config", "workdir") == named
    assert command_line.with_names(named, "config", "workdir") == named
    assert command_line.with_names(["runs/a", "runs/b"], "workdir") == ["--workdir=runs/a", "runs/b"]


@pytest.mark.fast
def test_an_optional_field_is_unset():
    """A number, a word, and an optimiser's; the last of several values counts, and None is none of other fields."""

    def read(*arguments):
        return command_line.parse(["x", "--config=simclr:cifar10_small", *(f"--config.{a}" for a in arguments)])

    assert read().data.per_class is not None and read("data.per_class=None").data.per_class is None
    assert read("data.per_class=2", "data.per_class=None").data.per_class is None
    assert read("data.per_class=None", "data.per_class=2").data.per_class == 2
    assert read("init_from=None").init_from is None
    assert read("optim.default.weight_decay_final=None").optim.default.weight_decay_final is None
    with pytest.raises(UserError, match="batch_size=None"):
        read("batch_size=None")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tran"], "There is no command 'tran'. Did you mean 'train'?"),
        (["presets", "simclear"], "Did you mean 'simclr'"),
        (["config"], "--config=METHOD:PRESET is needed"),
        (["config", "simclr:digit"], "Did you mean 'digits'"),
        (["methods", "joint"], "ssl_jax methods does not take joint"),
    ],
)
def test_mistakes(capsys, arguments, words):
    assert commands.main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.fast
def test_version_and_help_need_no_jax(capsys):
    assert commands.main(["--version"]) == 0 and capsys.readouterr().out == f"{ssl_jax.__version__}\n"
    assert commands.main([]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", printed, re.M) for name in commands.PROGRAMS | commands.ANSWERS)
    for arguments in (["--version"], ["--help"]):
        code = f"import sys, ssl_jax.__main__ as m; m.main({arguments}); assert 'jax' not in sys.modules"
        assert python("-c", code, folder=ROOT).returncode == 0


@pytest.mark.parametrize("command", list(commands.PROGRAMS))
def test_programs_are_commands(tmp_path, command):
    result = python("-m", "ssl_jax", command, "--help", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "ssl_jax" in result.stdout


def test_a_reader_that_has_seen_enough(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = f"{sys.executable} -m ssl_jax presets | head -1"
    result = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.stdout == f"## {build.names()[0]}\n" and result.stderr == ""


def test_a_machine_without_a_tpu_is_not_asked_for_one(tmp_path):
    pytest.importorskip("libtpu", reason="the package libtpu is not installed")
    code = "import jax; from ssl_jax.workdir.log import speak_plainly; speak_plainly(); print(jax.devices())"
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", *platforms._SAYING)}
    environment |= {"PYTHONPATH": str(ROOT)}
    if platforms.may_have_tpu() or glob.glob("/dev/nvidia[0-9]*"):
        pytest.skip("this machine may have a TPU or a GPU")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "CpuDevice" in result.stdout and result.stderr == ""


@pytest.mark.fast
def test_a_tpu_is_looked_for_where_one_may_be(monkeypatch):
    for name in platforms._SAYING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platforms.glob, "glob", lambda pattern: [])
    assert not platforms.may_have_tpu()
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert platforms.may_have_tpu()


# --- what --config may be


@pytest.mark.fast
def test_a_name_means_the_same_as_its_file(monkeypatch):
    monkeypatch.chdir(ROOT)
    for preset in ("digits", "cifar10", "imagenet"):
        assert command_line.load(f"simclr:{preset}") == command_line.load(f"configs/simclr.py:{preset}")
    assert command_line.load("simclr") == command_line.load("configs/simclr.py") == recipes.get_config("simclr")
    tasks = "multitask:photo_tiles+rotation+jigsaw"
    assert command_line.load(tasks) == command_line.load(tasks.replace(":", ".py:").replace("multi", "configs/multi"))


IMPORTS = "from ssl_jax import recipes\n"
SIGNATURES = {
    'def get_config(arg="digits"): return recipes.get_config("byol", arg)': ("", ":digits"),
    'def get_config(): return recipes.get_config("byol", "digits")': ("",),
    'def get_config(preset): return recipes.get_config("byol", preset)': (":digits",),
    'def get_config(*presets): return recipes.get_config("byol", *presets or ("digits",))': ("", ":digits"),
    'get_config = lambda text="byol digits": recipes.get_config(*text.split())': ("", ":byol digits"),
}


@pytest.mark.fast
@pytest.mark.parametrize("source", list(SIGNATURES))
def test_a_config_file_may_have_any_signature(tmp_path, source):
    file = tmp_path / "mine.py"
    file.write_text(f"{IMPORTS}{source}\n")
    for preset in SIGNATURES[source]:
        assert command_line.load(f"{file}{preset}") == recipes.get_config("byol", "digits")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("source", "preset", "words"),
    [
        ("def get_config(): return recipes.get_config('byol')", ":digits", "does not take the preset 'digits'"),
        ("def get_config(preset): return recipes.get_config('byol', preset)", "", "does not take no preset"),
        ("def get_config(preset): return recipes.get_config('byol', preset)", ":digit", "Did you mean 'digits'"),
        ("def config(): pass", "", "it has no function get_config"),
        ("def get_config(): return {}", "", "returns a dict, not an ml_collections.ConfigDict"),
        ("import nowhere", "", "ModuleNotFoundError: No module named 'nowhere' (line 2)"),
        ("def get_config(:", "", "SyntaxError"),
        ("def get_config():\n  return 1 / 0", "", "ZeroDivisionError: division by zero (line 3)"),
    ],
)
def test_mistakes_in_a_config_file(tmp_path, source, preset, words):
    file = tmp_path / "mine.py"
    file.write_text(f"{IMPORTS}{source}\n")
    with pytest.raises(UserError, match=re.escape(words)):
        command_line.load(f"{file}{preset}")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("simclear:digits", "Did you mean 'simclr'"),
        ("nowhere/simclr.py:digits", "Without a file: --config=simclr:PRESET"),
        ("my_project.mine:digits", "there is no module my_project.mine on Python's path"),
    ],
)
def test_what_is_not_there(given, words):
    with pytest.raises(UserError, match=re.escape(words)):
        command_line.load(given)


# --- methods and folders of the user's own

METHOD = '''
"""Tells mirror images."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ssl_jax.augment.view import View
from ssl_jax.methods.pretext.rotation import Rotation
from ssl_jax.recipes.layer import Recipe

UNPUBLISHED = {"digits": Recipe(method={"weight": 2.0}, epochs=2)}


@dataclasses.dataclass(frozen=True)
class Mine(Rotation):
    weight: float = 1.0

    def loss(self, params, state, batch, **keywords):
        loss, rest = super().loss(params, state, batch, **keywords)
        return self.weight * loss, rest
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a method, and with a folder configs/ that nobody may read."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_project").mkdir()
    (folder / "my_project" / "mine.py").write_text(METHOD)
    (folder / "configs").mkdir()
    for name in ("__init__", "common", "simclr", "mine"):
        (folder / "configs" / f"{name}.py").write_text('raise RuntimeError("somebody else\'s file")\n')
    return folder


@pytest.fixture(scope="module")
def trained(own):
    result = python(
        "-m", "ssl_jax", "train", "--config=my_project.mine:digits", "--workdir=run", *SMALL[1:], folder=own
    )
    assert result.returncode == 0, result.stderr
    config = json.loads((own / "run" / "config.json").read_text())
    assert (config["method"]["name"], config["method"]["weight"], config["epochs"]) == ("my_project.mine", 2.0, 2)
    return own


def test_a_method_of_the_users_own_is_trained_and_resumed(trained):
    same = ("-m", "ssl_jax.main", "--config=my_project.mine:digits", "--workdir=run", *SMALL[1:])
    result = python(*same, folder=trained)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (("evaluate", "--workdir=run", "--evals=knn"), "results.json"),
        (("report", "--workdir=run"), "report.html"),
        (("export", "--workdir=run"), "backbone.safetensors"),
        (("export", "--workdir=run", "--format=npz"), "backbone.npz"),
    ],
)
def test_a_method_of_the_users_own_is_evaluated_and_exported(trained, arguments, file):
    result = python("-m", "ssl_jax", *arguments, folder=trained)
    assert result.returncode == 0, result.stderr
    assert (trained / "run" / file).exists()


def test_a_folder_configs_of_the_users_own_does_not_matter(own):
    result = python("-m", "ssl_jax.main", "--config=simclr:digits", "--workdir=simclr", *SMALL, folder=own)
    assert result.returncode == 0, result.stderr
    for command in (
        ("ssl_jax.evaluate", "--workdir=simclr", "--evals=knn"),
        ("ssl_jax.report", "--workdir=simclr"),
        ("ssl_jax.export", "--workdir=simclr", "--format=npz"),
        ("ssl_jax.evaluate", "--backbone=simclr/backbone.npz", "--data=digits", "--workdir=other", "--evals=knn"),
    ):
        result = python("-m", *command, folder=own)
        assert result.returncode == 0, result.stderr


# --- a folder of photographs as a preset


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Forty images of several sizes in two classes."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(40):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30 + i, 45, 3), np.uint8)).save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


@pytest.mark.fast
def test_batch_and_epochs_fit_the_number_of_photographs(photographs, tmp_path):
    config = command_line.load(f"simclr:folder:{photographs}")
    assert (config.batch_size, config.epochs, config.data.size) == (32, 200, 96)
    (tmp_path / "few").mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (9, 9)).save(tmp_path / "few" / f"{name}.png")
    with pytest.raises(UserError, match="has 2 training images besides those held out: at least 8 are needed"):
        command_line.load(f"simclr:folder:{tmp_path}/few")
    with pytest.raises(UserError, match="nowhere"):
        command_line.load("simclr:folder:nowhere")


# Of folders of photographs there are no domains, no clips and no masks; multitask asks its tasks.
NEEDS = {name: build.find(name).needs for name in build.names()}
OTHER = {"clips", "domains", "masks"}
PHOTOGRAPHED = [n for n, needs in NEEDS.items() if not (isinstance(needs, frozenset) and needs & OTHER)]


@pytest.mark.fast
@pytest.mark.parametrize("method", PHOTOGRAPHED)
def test_photographs_are_a_preset_of_every_method(photographs, method):
    config = command_line.load(f"{method}:folder:{photographs}")
    build.method(config.method, models.from_config(config.model)).check(96, 96, 3)


def test_photographs_are_trained_on(photographs, tmp_path):
    small = ("--config.epochs=1", "--config.model.width=4", "--config.batch_size=16")
    result = python("-m", "ssl_jax", "train", f"simclr:folder:{photographs}", "run", *small, folder=tmp_path)
    assert result.returncode == 0, result.stderr


# --- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """What `pip install` would unpack."""
    setuptools = pytest.importorskip("setuptools", reason="builds the wheel")
    if tuple(map(int, setuptools.__version__.split(".")[:2])) < (70, 1):
        pytest.skip(f"setuptools {setuptools.__version__} builds no wheels by itself")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    parts = ("setup.py", "pyproject.toml", "README.md", "ssl_jax", "configs")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *parts], cwd=ROOT, capture_output=True)
    files = [name for name in listed.stdout.decode().splitlines() if (ROOT / name).is_file()]
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", target, source)
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (packed,) = target.glob("ssl_jax-*.whl")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(target)
    return target, {name for name in files if name.startswith("ssl_jax/")}


def test_the_wheel_has_the_whole_package_and_nothing_else(wheel):
    target, files = wheel
    assert len(files) > 150
    assert {str(p.relative_to(target)) for p in (target / "ssl_jax").rglob("*") if p.is_file()} == files
    assert sorted(p.name for p in target.iterdir() if p.is_dir() and "dist-info" not in p.name) == ["ssl_jax"]
    (entry,) = target.glob("*.dist-info/entry_points.txt")
    assert "ssl_jax = ssl_jax.__main__:main" in entry.read_text()


def test_an_installed_package_needs_no_folder_configs(wheel, tmp_path):
    target, _ = wheel
    result = python("-m", "ssl_jax", "config", "swav:digits", folder=tmp_path, path=target)
    assert result.returncode == 0, result.stderr
    assert "--config.method.name=swav" in result.stdout
    code = "import ssl_jax, sys; print(ssl_jax.__file__)"
    assert str(target) in python("-c", code, folder=tmp_path, path=target).stdout
