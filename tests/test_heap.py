"""Memory that is kept from step to step."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import jax, jax.numpy as jnp
from ssl_jax.runtime import malloc
if sys.argv[1] == "keep":
    malloc.keep()
step = jax.jit(lambda x: (x @ x.T) @ x)  # 64 MiB in the meantime
x = jnp.ones((4096, 64))
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(max(faults[2:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="is for glibc")
def test_a_step_uses_the_memory_of_the_step_before():
    command = [sys.executable, "-c", CODE]
    kept, given_back = (
        int(subprocess.run([*command, how], capture_output=True, text=True, check=True, timeout=120).stdout)
        for how in ("keep", "give back")
    )
    assert given_back > 30  # 16,000 pages of 4 KiB, or 32 where the kernel makes all of them huge
    assert kept < given_back / 4
