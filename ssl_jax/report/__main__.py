"""`python -m ssl_jax.report`."""

import sys

from ssl_jax import programs
from ssl_jax.report import main

if __name__ == "__main__":
    programs.keep()
    sys.exit(main())
