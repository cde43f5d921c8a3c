"""`python -m dynet_jax.cli` is `dynet`."""

import os
import sys

from dynet_jax.cli import main
from dynet_jax.cli.train import leave_at_signals


def dynet() -> int:
    """The installed command. Returns its exit code, except where training did not end: that ends the process."""
    trains = sys.argv[1:2] == ["train"]
    if trains:
        leave_at_signals()
    code = main()
    if trains and code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a compilation in the background, or a host that has died, would keep the process alive
    return code


if __name__ == "__main__":
    sys.exit(dynet())
