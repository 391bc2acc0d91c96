"""Arrays by name in a file, with a text beside them: .npz or .safetensors. Nothing in such a file is executed."""

from typing import Any

from etils import epath
import numpy as np

from ssl_jax.runtime import files
from ssl_jax.runtime.errors import UserError

_KEY = "ssl_jax"  # of the text in a file


def write(path: epath.Path, arrays: dict[str, np.ndarray], text: str) -> None:
    """Writes arrays by name, and a text beside them, into a .npz or .safetensors file.

    Raises:
      UserError: for another ending, or a place that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            with files.replacing(path) as file:
                np.savez(file, **{_KEY: np.array(text)}, **arrays)  # type: ignore[arg-type]
        elif path.suffix == ".safetensors":
            files.write(path, _safetensors().numpy.save(arrays, metadata={_KEY: text}))
        else:
            raise UserError(f"{path} ends neither in .npz nor in .safetensors: choose one of them.")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another place with --out.") from error


def read(path: epath.Path) -> tuple[dict[str, np.ndarray], str | None]:
    """Reads a .npz or .safetensors file.

    Args:
      path: of the file.

    Returns:
      name to array, and the text that `write` put beside them, None in a file of others.

    Raises:
      UserError: for another ending, a damaged file, or one that needs a package which is not installed.
    """
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(f"{path} is neither .npz nor .safetensors, the files that weights are read from.")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            text = arrays.pop(_KEY, None)
            return arrays, None if text is None else str(text)
        with _safetensors().safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(_KEY)  # noqa: SIM118
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes NumPy, zipfile or safetensors raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {reason}): copy it anew.") from error


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError("A .safetensors file needs the package safetensors: pip install ssl_jax[export].") from error
    return safetensors
