"""`python -m ssl_jax.report`."""

import sys

from ssl_jax.report import main
from ssl_jax.runtime import compile_cache

if __name__ == "__main__":
    compile_cache.keep()
    sys.exit(main())
