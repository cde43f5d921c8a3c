"""Train a network: python train.py --config=configs/dy_mobile.py[:VARIANT] --workdir=DIR [--config.KEY=VALUE ...]"""

import sys

from dynet_jax.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
