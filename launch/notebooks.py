"""Runs the notebooks and stores their outputs: `python launch/notebooks.py [NAME ...]`.

They run on this machine, each in a folder of its own, and need Fashion-MNIST (docs/own_images.md says where it comes
from). The repository's address in them is that of setup.py; `python docs/generate.py` writes it.
"""

import hashlib
import os
import pathlib
import re
import sys
import tempfile

import nbclient
import nbformat

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "launch").glob("*.ipynb"))
_ADDRESS = re.compile(r"github(?:\.com)?/([\w.-]+/[\w.-]+)(?=/blob/|\" *$|\"\n| && cd )", re.M)


def repository() -> str:
    """OWNER/NAME of the public repository, as setup.py has it."""
    return re.search(r'^REPOSITORY = "https://github\.com/(.+)"', (ROOT / "setup.py").read_text(), re.M)[1]


def addressed(text: str, own: str) -> str:
    """A cell's text with this OWNER/NAME in its badge and where it clones."""
    return _ADDRESS.sub(lambda match: match[0].replace(match[1], own), text)


def digest(notebook: nbformat.NotebookNode) -> str:
    """Tells the code of a notebook from other code, whatever the repository's address."""
    cells = [addressed(cell.source, "") for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()


def execute(notebook: nbformat.NotebookNode, folder: pathlib.Path, timeout: int = 3600) -> None:
    """Runs all cells, in place.

    Args:
      notebook: as `nbformat.read` gives it.
      folder: an empty one, which becomes a checkout for the notebook.
      timeout: of a cell, seconds.
    """
    for name in ("setup.py", "configs", "ssl_jax", "launch"):
        (folder / name).symlink_to(ROOT / name)
    os.environ["PYTHONPATH"] = str(folder)  # of the kernel
    metadata = {"path": str(folder)}
    nbclient.NotebookClient(
        notebook, timeout=timeout, startup_timeout=600, kernel_name="python3", resources={"metadata": metadata}
    ).execute()
    notebook.metadata["executed"] = {"code": digest(notebook)}


def main(names: list[str]) -> None:
    """Runs the notebooks of these names, or all."""
    for path in NOTEBOOKS:
        if names and path.stem not in names:
            continue
        notebook = nbformat.read(path, nbformat.NO_CONVERT)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, pathlib.Path(folder))
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # the time of day
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
