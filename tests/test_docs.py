"""The documentation: generated pages are current, it builds, its links lead somewhere, and its commands run."""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from ssl_jax import __main__ as commands
from ssl_jax import command_line
from ssl_jax.evals import find
from ssl_jax.methods import build

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def lines_of(text):
    """The commands of a page, one a line, without comments; lines that end in a backslash are joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    joined = "".join(blocks).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]


def run(arguments, folder, **settings):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.fast
def test_generated_pages_are_current(monkeypatch):
    """`python docs/generate.py` writes them anew."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, make in generate.PAGES.items():
        assert (DOCS / name).read_text() == make(), f"docs/{name} is not what docs/generate.py writes"
    assert generate.readme() == README, "the README is not what docs/generate.py writes"


@pytest.mark.fast
def test_the_reference_of_fields_explains_each():
    page = (DOCS / "configs.md").read_text()
    for field in ("batch_size", "data.size", "model.width", "optim.default.warmup_epochs", "run.keep", "eval.knn_k"):
        assert re.search(rf"^\| `{field}` \| `.+` \| \S.+\|$", page, re.M), field
    general = page.split("## Views")[0]
    named = set(re.findall(r"^\| `([\w.]+)` \|", general, re.M))
    config = command_line.load("simclr:digits")
    fields = {f for f in command_line.fields(config) if not f.startswith("method.")}
    assert named == fields | set(f"eval.{name}" for name in find.options())


@pytest.mark.fast
def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.fast
def test_the_methods_are_counted_and_linked():
    for page in (README, (ROOT / "docs" / "index.md").read_text()):
        assert f"\n{len(build.names())} methods for" in page
    assert [name for name in build.names() if f"[`{name}`](" not in README] == []


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w.-]+)?\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_presets_exist(page):
    for line in lines_of(page.read_text()):
        words = shlex.split(line, comments=True)
        if words[:1] == ["ssl_jax"]:
            assert words[1] in commands.PROGRAMS | commands.ANSWERS, line
        for word in words:
            preset = re.fullmatch(r"(?:--config=)?([a-z_0-9]+:[a-z_0-9+]+)", word)
            if preset and words[0] != "kubectl":
                command_line.load(preset[1])


@pytest.mark.fast
def test_the_commands_of_the_readme_are_those_of_the_launch_folder():
    for line in lines_of(README):
        for script in re.findall(r"launch/[\w.]+", line):
            assert (ROOT / script).exists(), script
    assert "bash launch/test.sh" in README


@pytest.mark.fast
def test_benchmarks_are_listed_with_what_they_answer():
    listed = run(["benchmarks"], ROOT).stdout.splitlines()
    names = {file.stem for file in (ROOT / "benchmarks").glob("*.py")} - {"__main__", "record"}
    found = dict(re.findall(r"^(\w+)  +(\S.+)$", "\n".join(listed), re.M))
    assert set(found) == names


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36 + i, 3), np.uint8)).save(folder / "ab"[i % 2] / f"{i}.jpg")
    return folder


SMALL = ["--config.epochs=1", "--config.model.width=4"]


def test_the_commands_of_the_readme_run_in_order(tmp_path, images):
    """All that start with `ssl_jax`, at small settings; on this machine's devices where a TPU is named."""
    ran = []
    for line in lines_of(README):
        name, *arguments = shlex.split(line, comments=True)
        if name != "ssl_jax":
            continue
        command = arguments[0]
        arguments = [a.replace("path/to/images", str(images)) for a in arguments]
        if command == "train":
            arguments += [*SMALL, "--config.run.eval_epochs=0"]
        if command == "plan":
            arguments = ["plan", "simclr:digits", "--topology=local", *SMALL]
        result = run(["ssl_jax", *arguments], tmp_path)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
        ran.append(command)
    assert ran == ["train", "evaluate", "report", "train", "embed", "export", "plan"]


def test_the_worked_example_of_a_method_trains(tmp_path):
    page = (DOCS / "adding_a_method.md").read_text()
    (source,) = re.findall(r'^```python title="my/mean_colour.py"\n(.*?)^```', page, re.M | re.S)
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "mean_colour.py").write_text(source)
    (line,) = [line for line in lines_of(page) if line.startswith("ssl_jax train")]
    result = run([*shlex.split(line), *SMALL, "--config.seed=1"], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    result = run(["ssl_jax", "evaluate", "runs/colour", "--evals=health,knn"], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_it_builds(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e .[docs]")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install -e .[docs]")
    result = run(["mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")], ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    page = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert 'id="ssl_jax.load_backbone"' in page and 'id="ssl_jax.methods.contract.Method.loss"' in page
