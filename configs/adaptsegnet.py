"""AdaptSegNet. `python -m ssl_jax.main --config=configs/adaptsegnet.py:scenes_dusk --workdir=runs/adaptsegnet`."""

from ssl_jax import recipes


def get_config(preset="scenes_dusk"):
    return recipes.get_config("adaptsegnet", preset)
