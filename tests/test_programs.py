"""Compiled programs on disk."""

import subprocess
import sys

import pytest

from ssl_jax.runtime import compile_cache

CODE = """
import jax, jax.numpy as jnp
from ssl_jax.runtime import compile_cache
compile_cache.keep()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.config.jax_compilation_cache_dir)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
"""


@pytest.mark.parametrize("chosen", [False, True])
def test_programs_are_kept_where_the_user_or_the_cache_says(tmp_path, monkeypatch, chosen):
    monkeypatch.setenv("SSL_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120)
    place = tmp_path / "own" if chosen else tmp_path / "cache" / "programs" / compile_cache._machine()
    assert done.stdout.strip() == str(place)
    assert any(place.iterdir())
    assert not done.stderr
