"""Which kinds of devices JAX looks for."""

import glob
import importlib.util
import os
import pathlib

import jax

_GOOGLE = "0x1ae0"  # PCI vendor of TPUs, and of other devices in Google's machines

# Variables that say so; JAX sets others by itself.
_SAYING = {"COLAB_TPU_ADDR", "JAX_FORCE_TPU_INIT", "TPU_ACCELERATOR_TYPE", "TPU_NAME", "TPU_WORKER_HOSTNAMES"}


def without_absent_tpu() -> None:
    """Keeps JAX from looking for a TPU where the planner's libtpu is installed and there can be none.

    It would find none and print alarming lines. To be called before any device is touched; a choice of the user
    (JAX_PLATFORMS) stays.
    """
    chosen = jax.config.jax_platforms  # type: ignore[attr-defined]
    if chosen or importlib.util.find_spec("libtpu") is None or may_have_tpu():
        return
    gpu = importlib.util.find_spec("jax_plugins") is not None and glob.glob("/dev/nvidia[0-9]*")
    if not gpu:  # with a GPU its platform would have to be named, which differs between its makers
        jax.config.update("jax_platforms", "cpu")


def may_have_tpu() -> bool:
    """Whether this machine may have a TPU; every machine of Google's cloud may."""
    told = _SAYING & os.environ.keys()
    vendors = {pathlib.Path(file).read_text().strip() for file in glob.glob("/sys/bus/pci/devices/*/vendor")}
    return bool(told or _GOOGLE in vendors or glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
