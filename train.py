"""Train a network: python train.py --config=configs/dy_mobile.py[:VARIANT] --workdir=DIR [--config.KEY=VALUE ...]"""

import os
import sys

from dynet_jax.cli import train_main

if __name__ == "__main__":
    code = train_main()
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a compilation in the background, or a host that has died, would keep the process alive
