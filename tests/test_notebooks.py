"""The notebooks run from top to bottom, and what is committed of them can be read without running them."""

import pathlib
import re

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "launch").glob("*.ipynb"))


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.fast
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_was_executed_and_is_small(path):
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_000_000
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    printed = "".join(output.get("text", "") for output in outputs)
    assert not re.search(r"Traceback|Warning|/(home|root|tmp|work)/", printed), printed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages that talk to the kernel
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    for name in ("setup.py", "configs", "ssl_jax", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, value in (("SSL_JAX_SMALL", "1"), ("JAX_PLATFORMS", "cpu"), ("PYTHONPATH", str(tmp_path))):
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises with the cell's traceback
    assert all(cell.execution_count for cell in code(notebook))
    if "backbone.npz" in path.read_text():
        assert list(tmp_path.glob("runs/*/backbone.npz"))
