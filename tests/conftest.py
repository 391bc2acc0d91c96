"""Shared fixtures: eight simulated devices on the CPU, and the optional reference data."""

import atexit
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

# Tests compile far more than they compute. Set before JAX starts; no fast-math, so that results stay what they are.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
if importlib.metadata.version("jaxlib").startswith("0.10."):  # a third of the time; later versions do not know it
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# For the commands that tests start, too: with libtpu installed JAX would look for a TPU, seconds a process.
os.environ["JAX_PLATFORMS"] = "cpu"
# Threads of BLAS that wait for each other beside another process of the suite make small fits ten times slower.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# What one test, process or command has compiled the others need not compile again; a folder that is set already is
# kept, and makes the next run of the suite quicker.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="ssl_jax-programs-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
if "PYTEST_XDIST_WORKER" in os.environ:  # JAX writes there in place, so that another could read half a program
    os.environ["JAX_COMPILATION_CACHE_DIR"] += f"/{os.environ['PYTEST_XDIST_WORKER']}"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import numpy as np
import pytest
import tiny

jax.config.update("jax_num_cpu_devices", 8)


def group(nodeid: str) -> str:
    """The method that a test of test_methods.py is of; the file of any other test."""
    file, _, test = nodeid.partition("::")
    parameters = test.partition("[")[2].rstrip("]")
    return parameters.split("-")[0] if file.endswith("test_methods.py") and parameters else file


def pytest_collection_modifyitems(items):
    """Brings the tests of a group together, for they share what is compiled."""
    groups: dict[str, list] = {}
    for item in items:
        groups.setdefault(group(item.nodeid), []).append(item)
    items[:] = [item for together in groups.values() for item in together]


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may be absent
def pytest_xdist_make_scheduler(config, log):
    """Gives each group to one process. (pytest-xdist's own `loadgroup` groups nothing with pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Grouped(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Grouped(config, log) if config.getoption("dist") == "loadscope" else None


SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder of reference numbers; tests that need it are skipped where it is absent."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("reference numbers are not on this machine")
    return folder


@pytest.fixture(scope="session")
def modern(golden):
    """Loads the reference numbers of a newer method, by name."""

    def load(name: str) -> dict[str, np.ndarray]:
        path = golden.parent / "golden_modern" / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"reference numbers golden_modern/{name}.npz are not on this machine")
        with np.load(path) as found:
            return dict(found)

    return load


@pytest.fixture(scope="session")
def photographs() -> pathlib.Path:
    """The folder of real images; tests that need it are skipped where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the image archives are not on this machine")
    return folder


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """What one file compiled is of no use to the next, and all of it together takes gigabytes."""
    yield
    tiny.forget()
    jax.clear_caches()


@pytest.fixture(scope="module")
def quick_compilation():
    """For modules of many small programs, which take far longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def one_device():
    """Runs of the module are on one device."""
    from ssl_jax import dist, mesh

    one = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "make_mesh", lambda devices=None, fsdp=1, make=dist.make_mesh: make(devices or one, fsdp))
        patch.setattr(mesh, "make", lambda sizes, devices=None, make=mesh.make: make(sizes, devices or one))
        yield
