"""Augmentation on the device: ops in `ops.py`, what is drawn in `view.py`, the papers' recipes in `recipes.py`."""
