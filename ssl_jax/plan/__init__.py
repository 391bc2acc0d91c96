"""Sizes a run before it is paid for; `python -m ssl_jax.plan --help`."""
