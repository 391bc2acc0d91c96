"""Finds an evaluation by its name, which is a file in this folder.

A module is an evaluation if it has `measure(context) -> list[Result]`, and:

- `TITLE`: of its table; empty where it prints one of its own;
- `NEEDS`: of 'labels', 'test images' and names of fields such as 'mask', what it cannot do without;
- `DEFAULT`: whether it is measured unasked;
- `LARGE`: whether it is measured unasked on more than `LARGE` training images as well;
- `FEATURES = False`, where it reads the networks alone, so that by itself it needs no features extracted;
- `OPTIONS`, where it has any: fields of `config.eval` and their defaults.

What it appends to `context.pictures` is kept in the workdir and shown in the report.
"""

import functools
import importlib
import pathlib
from types import ModuleType
from typing import Any

from ssl_jax.runtime.errors import UserError, nearest

LARGE = 200_000  # training images, whose logistic regression by L-BFGS takes hours and many times their memory


@functools.cache
def evaluations() -> dict[str, ModuleType]:
    """Name to module of all evaluations, in the order of their names."""
    stems = sorted(p.stem for p in pathlib.Path(__file__).parent.glob("*.py") if p.stem not in ("__init__", "run"))
    modules = {stem: importlib.import_module(f"ssl_jax.evals.{stem}") for stem in stems}
    return {name: module for name, module in modules.items() if hasattr(module, "measure")}


def find(name: str) -> Any:
    """The evaluation of that name.

    Raises:
      UserError: if there is none, naming the nearest.
    """
    if name not in evaluations():
        raise UserError(f"There is no evaluation '{name}'. {nearest(name, evaluations())}")
    return evaluations()[name]


def options() -> dict[str, Any]:
    """Fields of `config.eval` that evaluations have of their own, with their defaults."""
    return {name: value for module in evaluations().values() for name, value in getattr(module, "OPTIONS", {}).items()}
