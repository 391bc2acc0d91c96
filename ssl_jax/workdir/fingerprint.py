"""Tells arrays from others by their contents."""

import hashlib
from typing import Any

import jax
import numpy as np


def fingerprint(tree: Any) -> str:
    """A short hash of the contents of all arrays (and strings) of a tree, their shapes and their types."""
    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
