"""Augmentation on the device: ops in `ops.py`, views in `view.py` and `render.py`, the papers' recipes in `recipes.py`."""
