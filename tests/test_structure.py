"""The shape of the package: no circle of imports, no long file, no long function."""

import ast
import graphlib
import pathlib

import pytest

pytestmark = pytest.mark.fast

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "ssl_jax").rglob("*.py"))
MOST_OF_A_FILE, MOST_OF_A_FUNCTION = 300, 50  # lines; of a function without its docstring


def module(file: pathlib.Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(file): file for file in FILES}


def imported(file: pathlib.Path) -> set[str]:
    """The package's modules that a file imports, also inside functions, but not for types alone."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name in MODULES} - {"ssl_jax"}


def room(name: str) -> str:
    """The file or folder of the package that a module lies in."""
    return name.split(".")[1]


def test_no_circle_of_imports_between_rooms():
    """The functions of `import ssl_jax` itself import what they call, which imports the package."""
    graph: dict[str, set[str]] = {}
    for name, file in MODULES.items():
        if name != "ssl_jax":
            graph.setdefault(room(name), set()).update(room(other) for other in imported(file))
    order = graphlib.TopologicalSorter({name: others - {name} for name, others in graph.items()})
    assert len(list(order.static_order())) == len(graph)  # raises CycleError, which names the circle


def test_no_circle_of_imports_between_modules():
    graph = {name: imported(file) - {name} for name, file in MODULES.items() if name != "ssl_jax"}
    # A module of a folder imports that folder's `__init__` first, which may in turn import it: Python allows that.
    graph = {name: {x for x in others if not name.startswith(f"{x}.")} for name, others in graph.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_a_circle_is_found(monkeypatch, tmp_path):
    for one, other in (("streams", "losses"), ("losses", "streams")):
        file = tmp_path / f"{one}.py"
        file.write_text(f"def late():\n    from ssl_jax import {other}\n")
        monkeypatch.setitem(MODULES, f"ssl_jax.{one}", file)
    for test in (test_no_circle_of_imports_between_rooms, test_no_circle_of_imports_between_modules):
        with pytest.raises(graphlib.CycleError, match=r"streams.*losses|losses.*streams"):
            test()


@pytest.mark.parametrize("file", FILES, ids=module)
def test_files_and_functions_are_short(file):
    text = file.read_text()
    assert len(text.splitlines()) <= MOST_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - (body[0].lineno if body else node.end_lineno) + 1
            assert length <= MOST_OF_A_FUNCTION, f"{node.name} has {length} lines"
