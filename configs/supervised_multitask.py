"""Several labels. `python -m ssl_jax.main --config=configs/supervised_multitask.py:scenes --workdir=runs/tasks`."""

from ssl_jax import recipes


def get_config(preset="scenes"):
    return recipes.get_config("supervised_multitask", preset)
