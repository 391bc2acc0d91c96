"""Keeps compiled programs on disk, so that a run that starts again, or is evaluated again, need not compile."""

import hashlib
import pathlib
import platform

import jax

from ssl_jax.runtime.paths import cache_folder


def keep() -> None:
    """Turns on JAX's persistent compilation cache, below the folder of downloads; to be called before compiling.

    A place that the user has chosen (JAX_COMPILATION_CACHE_DIR) stays; JAX_ENABLE_COMPILATION_CACHE=false turns the
    cache off. JAX's own key covers the program, its options and the versions.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "programs" / _machine()))


def _machine() -> str:
    """What tells processors apart for which code differs: a home folder may be shared by machines."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.blake2b(features.encode(), digest_size=4).hexdigest()}"
