"""Shared fixtures: eight simulated devices on the CPU, and the optional reference data."""

import os
import pathlib

# Tests compile far more than they compute. Set before JAX starts; no fast-math, so that results stay what they are.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


def pytest_collection_modifyitems(items):
    """Tests of one method, and of one file otherwise, stay in one process: they share what is compiled."""
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        group = name if item.path.stem == "test_methods" and isinstance(name, str) else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder of reference numbers; tests that need it are skipped where it is absent."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("reference numbers are not on this machine")
    return folder


@pytest.fixture(scope="session")
def photographs() -> pathlib.Path:
    """The folder of real images; tests that need it are skipped where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the image archives are not on this machine")
    return folder
