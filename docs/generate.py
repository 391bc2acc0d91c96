"""Writes the generated pages of the documentation: `python docs/generate.py`.

docs/configs.md from the comments of the fields, docs/recipes.md from the recipes, docs/results.md and the README's
table from the records. The address of the repository, which setup.py has, goes into the README and the notebooks.
"""

import dataclasses
import inspect
import pathlib
import re
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "launch"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import faults
import nbformat
import notebooks
import results

from ssl_jax.augment.view import View
from ssl_jax.evals.find import options
from ssl_jax.methods import build
from ssl_jax.recipes import base, table

DOCS = pathlib.Path(__file__).resolve().parent
_FIELD = re.compile(r"^ +(?:config\.)?([\w.]+)(?:: .+?)? = (.+?)(?:  # (.+))?$")


def commented(source: str) -> dict[str, tuple[str, str]]:
    """Name to default and comment of the fields that are assigned in some lines of code.

    A comment stands behind the field, or in the lines above it.
    """
    found, above = {}, []
    for line in source.splitlines():
        if re.match(r"^ +# ", line):
            above.append(line.strip("# "))
            continue
        match = _FIELD.match(line)
        if match:
            found[match[1]] = (match[2], " ".join([*above, match[3] or ""]).strip())
        above = []
    return found


def fields(found: dict[str, tuple[str, str]], prefix: str) -> str:
    """A table of fields."""
    lines = [[f"`{prefix}{name}`", f"`{_shown(value)}`", _cell(words)] for name, (value, words) in found.items()]
    return results.markdown(["field", "default", "meaning"], lines)


def _shown(value: str) -> str:
    placeholder = re.fullmatch(r"config_dict\.placeholder\(\w+\)", value)
    return "None" if placeholder else value.replace("|", "\\|")


def _cell(words: str) -> str:
    # What looks like HTML or a link is text here.
    return re.sub(r"([|<\[\]*_])", r"\\\1", words)


def configs() -> str:
    """The page of all fields."""
    parts = [(DOCS / "configs_text.md").read_text()]
    groups: dict[str, dict[str, tuple[str, str]]] = {}
    for name, told in commented(inspect.getsource(base.fields)).items():
        group, _, field = name.rpartition(".")
        if not any(made in told[0] for made in ("ConfigDict()", "_data()", "_model()", "optimizer()")):
            groups.setdefault(group, {})[field] = told
    words = groups[""].pop("mesh")[1]
    groups["mesh"] = {axis: (str(size), words) for axis, size in base.fields().mesh.items()}
    groups["data"] = commented(inspect.getsource(base._data))
    groups["model"] = commented(inspect.getsource(base._model))
    groups["optim.default"] = commented(inspect.getsource(base.optimizer))
    groups["eval"] |= {name: (repr(value), "of the evaluation of that name") for name, value in options().items()}
    for group in ("", "mesh", "data", "model", "optim.default", "eval", "probe", "run"):
        found = {name: told for name, told in groups[group].items() if name != "config"}
        title = f"config.{group}" if group else "config"
        parts.append(f"## `{title}`\n\n{fields(found, f'{group}.' if group else '')}")
    parts.append(f"## Views\n\n{_VIEWS}\n\n{fields(commented(inspect.getsource(View).split('def check')[0]), 'VIEW.')}")
    parts.append("## Methods\n\nThe fields of each method are `config.method.FIELD`.")
    parts += [method(name) for name in build.names()]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


_VIEWS = (
    "Each view of a method, such as `config.method.view1`, has the fields of "
    "[`ssl_jax/augment/view.py`](reference.md#ssl_jax.augment.view.View); the table has the defaults of the class, "
    "and a recipe sets its own."
)


def method(name: str) -> str:
    """The fields of one method, those that it inherits included."""
    cls: Any = build.find(name)
    known = {f.name: f.default for f in dataclasses.fields(cls) if f.name != "backbone"}
    told: dict[str, tuple[str, str]] = {}
    for parent in reversed(cls.__mro__):
        if dataclasses.is_dataclass(parent):
            told |= {n: t for n, t in commented(inspect.getsource(parent)).items() if n in known}
    rows = {n: (told[n][0] if n in told else repr(known[n]), told[n][1] if n in told else "") for n in known}
    words = (inspect.getdoc(inspect.getmodule(cls)) or "").splitlines()[0]
    return f"### `{name}`\n\n{words}\n\n" + (fields(rows, "method.") if rows else "No fields of its own.")


PAGES = {
    "configs.md": configs,
    "recipes.md": lambda: table.text(build.names()) + "\n",
    "results.md": results.page,
    "faults.md": faults.page,
}


def readme() -> str:
    """The README with its table and the repository's address."""
    return notebooks.addressed(results.readme(), notebooks.repository())


def _address_notebooks() -> None:
    for path in notebooks.NOTEBOOKS:
        notebook = nbformat.read(path, nbformat.NO_CONVERT)
        for cell in notebook.cells:
            cell.source = notebooks.addressed(cell.source, notebooks.repository())
        nbformat.write(notebook, path)


if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / name).write_text(make())
    results.README.write_text(readme())
    _address_notebooks()
