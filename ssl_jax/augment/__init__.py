"""Augmentation on the device: `view.py` says what is drawn, `render.py` draws it with the ops of `ops.py`."""
