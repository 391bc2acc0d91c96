"""Camera motion. `python -m ssl_jax.main --config=configs/camera_motion.py:kitti --workdir=runs/camera_motion`."""

from ssl_jax import recipes


def get_config(preset="kitti"):
    return recipes.get_config("camera_motion", preset)
