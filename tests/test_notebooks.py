"""The notebooks run from top to bottom, and what is committed of them is what the present code gives."""

import gzip
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess

import nbclient
import nbformat
import numpy as np
import pytest
from sklearn.datasets import load_digits

from ssl_jax.data.sources import fashion_mnist

ROOT = pathlib.Path(__file__).resolve().parents[1]


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks = script(ROOT / "launch" / "notebooks.py")
each = pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, nbformat.NO_CONVERT)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.fast
@each
def test_what_is_committed_was_executed_and_is_small(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_000_000
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(printed(cell) for cell in code(notebook))
    assert not re.search(r"Traceback|Warning|/(home|root|tmp|work)/", text), text


@pytest.mark.fast
@each
def test_the_outputs_are_of_these_cells(path):
    """`python launch/notebooks.py` runs them anew after a change that is meant."""
    notebook = read(path)
    assert notebook.metadata["executed"]["code"] == notebooks.digest(notebook)


@pytest.mark.fast
@each
def test_figures_in_the_text_are_those_of_the_outputs(path):
    notebook = read(path)
    shown = set(re.findall(r"\d+\.\d+", "".join(printed(cell) for cell in code(notebook))))
    told = [x for cell in notebook.cells if cell.cell_type == "markdown" for x in re.findall(r"\d+\.\d+", cell.source)]
    assert told and set(told) <= shown


@pytest.mark.fast
@each
def test_pretraining_wins(path):
    """The accuracies of the example are above those of the same network untrained."""
    text = "".join(printed(cell) for cell in code(read(path)))
    (knn,) = re.findall(r"kNN accuracy ↑ *\| ([\d.]+) % *\| ([\d.]+) %", text)
    rows = re.findall(r"^(?:\d+|all \(.*\)) *\|.*\| ([\d.]+)(?: ± [\d.]+)? *\| ([\d.]+)(?: ± [\d.]+)?$", text, re.M)
    assert float(knn[0]) > float(knn[1]) and all(float(after) > float(before) for before, after in rows)


@pytest.mark.fast
@each
def test_the_address_stands_in_one_place(path):
    notebook = read(path)
    own = notebooks.repository()
    badge = f"https://colab.research.google.com/github/{own}/blob/main/launch/{path.name}"
    assert badge in notebook.cells[0].source
    assert f'REPOSITORY = "https://github.com/{own}"\n' in code(notebook)[0].source
    for cell in notebook.cells:
        assert notebooks.addressed(notebooks.addressed(cell.source, "some-one/else"), own) == cell.source


def test_the_first_cell_clones_and_installs(tmp_path):
    """In a folder without a checkout, as on Colab; git clones this repository, and pip is a stand-in."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a repository")
    (tmp_path / "bin").mkdir()
    (tmp_path / "work").mkdir()
    stand_in = tmp_path / "bin" / "python"
    stand_in.write_text(f'#!/usr/bin/env bash\necho "$*" >>{tmp_path}/calls\n')
    stand_in.chmod(0o755)
    cell = code(read(notebooks.NOTEBOOKS[0]))[0]
    source = cell.source.replace(f"https://github.com/{notebooks.repository()}", str(ROOT))
    # What is not committed yet is not cloned.
    source = source.replace("!bash launch/colab.sh", f"!PATH={tmp_path}/bin:$PATH bash {ROOT}/launch/colab.sh")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source + "\nprint(os.getcwd())")])
    resources = {"metadata": {"path": str(tmp_path / "work")}}
    patience = {"timeout": 600, "startup_timeout": 600}  # the machine may be busy
    nbclient.NotebookClient(notebook, kernel_name="python3", resources=resources, **patience).execute()
    assert printed(notebook.cells[0]).strip().endswith(str(tmp_path / "work" / "ssl_jax"))
    assert (tmp_path / "work" / "ssl_jax" / "setup.py").exists()
    assert (tmp_path / "calls").read_text().startswith("-m pip install --quiet")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "extra"), [({}, ""), ({"TPU_ACCELERATOR_TYPE": "v5e-1"}, "[tpu]"), ({"GPU_DEVICE": "/"}, "[gpu]")]
)
def test_jax_is_installed_for_the_device(tmp_path, settings, extra):
    (tmp_path / "python").write_text(f'#!/usr/bin/env bash\necho "$*" >>{tmp_path}/calls\n')
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "PYTHON": str(tmp_path / "python"), "GPU_DEVICE": "/nowhere", **settings}
    subprocess.run(["bash", ROOT / "launch" / "colab.sh"], env=environment, check=True, capture_output=True)
    assert (tmp_path / "calls").read_text().strip().endswith(f"--editable .{extra}")


def clothes(folder):
    """Fashion-MNIST's four files, with digits in place of its clothes."""
    folder.mkdir(parents=True)
    digits = load_digits()
    images = np.kron(digits.images * 15.9, np.ones((3, 3))).astype(np.uint8)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    labels = digits.target.astype(np.uint8)
    for prefix, part in (("train", slice(0, 1200)), ("t10k", slice(1200, None))):
        for name, values in (("images-idx3", images[part]), ("labels-idx1", labels[part])):
            head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))


def words(text):
    return set(re.findall(r"[^\W\d_]{3,}", text))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages that talk to the kernel
@each
def test_it_runs_and_prints_in_the_words_of_what_is_committed(path, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "PACKAGE", pathlib.Path("/nowhere"))
    clothes(tmp_path / "cache" / "fashion_mnist")
    (tmp_path / "checkout").mkdir()
    settings = {"SSL_JAX_SMALL": "1", "JAX_PLATFORMS": "cpu", "SSL_JAX_CACHE": str(tmp_path / "cache")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", "")  # `execute` sets it, and it is put back
    committed, notebook = read(path), read(path)
    notebooks.execute(notebook, tmp_path / "checkout", timeout=600)  # raises with the cell's traceback
    for old, new in zip(code(committed), code(notebook), strict=True):
        assert words(printed(old)) <= words(printed(new)) | words(old.source), old.source
        kinds = [[o.output_type for o in cell.outputs if o.output_type != "stream"] for cell in (old, new)]
        assert kinds[0] == kinds[1]
    if "backbone.npz" in path.read_text():
        assert list((tmp_path / "checkout").glob("runs/*/backbone.npz"))
