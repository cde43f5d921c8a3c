"""`python -m dynet_jax.cli` is `dynet`."""

import sys

from dynet_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
