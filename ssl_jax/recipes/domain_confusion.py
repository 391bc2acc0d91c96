"""Domain confusion: on digits, with the settings of DANN."""

from ssl_jax.recipes import dann

UNPUBLISHED = dann.UNPUBLISHED
