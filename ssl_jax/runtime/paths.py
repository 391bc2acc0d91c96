"""Folders of the user's that the package writes to."""

import os
import pathlib


def cache_folder(cache: str | None = None) -> pathlib.Path:
    """Returns the folder for downloads, decoded images and compiled programs; it need not exist.

    Args:
      cache: the folder itself; None is $SSL_JAX_CACHE or ~/.cache/ssl_jax.
    """
    return pathlib.Path(cache or os.environ.get("SSL_JAX_CACHE") or "~/.cache/ssl_jax").expanduser()
