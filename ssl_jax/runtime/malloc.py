"""Keeps memory that a step on a CPU has used, in huge pages, for the next step.

XLA asks for the arrays of a step anew each time, and glibc gets blocks of that size from the kernel and gives them
back: a seventh of a step of a small ResNet-18 went into the kernel's zeroing of 187,000 pages.
"""

import ctypes
import os
import pathlib
import platform

import jax

# Of glibc's mallopt and the kernel's madvise.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX, _HUGE_PAGES = -1, -4, -8, 14
_HUGE = 2 << 20  # bytes of a huge page
_ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")


def keep() -> None:
    """Makes this process keep what it frees; to be called before JAX starts its threads.

    Does nothing where another device than the CPU computes, or where the C library is not glibc.
    """
    elsewhere = any(pathlib.Path(place).exists() for place in _ACCELERATORS)
    if platform.libc_ver()[0] != "glibc" or (elsewhere and jax.config.jax_platforms != "cpu"):  # type: ignore[attr-defined]
        return
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # One heap for all threads, since only that of the first grows without bound, and no block outside it.
    for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
        libc.mallopt(option, value)
    # The heap grows now, while its pages can be asked to be huge; they are no memory before they are used.
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    block = libc.malloc(size)
    if block:  # a machine may promise no more than it has
        start = -(-block // _HUGE) * _HUGE
        libc.madvise(start, (block + size - start) // _HUGE * _HUGE, _HUGE_PAGES)
        libc.free(block)
