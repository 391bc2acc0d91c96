"""Runs `python -m ssl_jax.plan`."""

import sys

from ssl_jax.plan import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
