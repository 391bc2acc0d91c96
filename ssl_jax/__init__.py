"""Self-supervised learning of image representations in JAX and Flax.

    import ssl_jax

    ssl_jax.train("simclr:digits", "runs/a")                  # pretrains, or resumes
    ssl_jax.evaluate("runs/a", ["knn", "few_label"])          # measures; returns the numbers
    ssl_jax.compare("runs/a", "runs/b")                       # one page; returns its path
    features = ssl_jax.load_backbone("runs/a")(images)        # [N, H, W, C] to [N, D]
    ssl_jax.embed("runs/a", "path/to/images").save("features.npz")
    ssl_jax.export("runs/a", "torchvision")
    ssl_jax.list_methods()

`train`, `evaluate`, `report`, `embed` and `export` are modules as well: the commands of their names.
"""

import importlib
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_jax.weights import Backbone

__version__ = "0.1.0"
__all__ = ["compare", "embed", "evaluate", "export", "list_methods", "load_backbone", "report", "train"]

_CALLABLE = ("embed", "evaluate", "export", "report", "train")  # modules that are also the function of their name


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that `import ssl_jax` alone stays light."""
    if name in _CALLABLE:
        return importlib.import_module(f"ssl_jax.{name}")
    raise AttributeError(f"module 'ssl_jax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_backbone(path: str) -> "Backbone":
    """A pretrained backbone as a function: `load_backbone("runs/a")(images)` are the features [N, D] of images.

    Args:
      path: workdir of a run, or a file that `ssl_jax.export` wrote.

    Raises:
      UserError: if there is no backbone at `path`.
    """
    from ssl_jax import weights
    from ssl_jax.runtime import platforms

    platforms.without_absent_tpu()
    return weights.load(path)


def list_methods(family: str | None = None) -> list[str]:
    """Names of the methods, each of which `train` takes as 'METHOD:PRESET'.

    Args:
      family: 'joint', 'masked', 'pretext', ... as `ssl_jax methods` lists them; None for all.

    Raises:
      UserError: for an unknown family.
    """
    from ssl_jax.methods import build
    from ssl_jax.runtime.errors import UserError, nearest

    families = build.families()
    if family is None:
        return build.names()
    if family not in families:
        raise UserError(f"There is no family '{family}'. {nearest(family, families)}")
    return families[family]


def compare(*workdirs: str) -> pathlib.Path:
    """Writes a page that compares runs into the first workdir, as `ssl_jax report` does, and returns its path.

    Args:
      *workdirs: of the runs, at least one.

    Raises:
      UserError: if a workdir holds no run.
    """
    from ssl_jax.report import report

    return pathlib.Path(report(*workdirs))
