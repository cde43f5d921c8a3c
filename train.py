"""Train a network: python train.py --config=configs/dy_mobile.py[:VARIANT] --workdir=DIR [--config.KEY=VALUE ...]"""

import os
import signal
import sys


def leave(number, frame):
    """Answers signals until training does. An exception would be lost in some callback of a library."""
    os.write(2, b"train.py: stopped; run the same command to resume\n")
    os._exit(75)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # before the imports below, which take a second
        signal.signal(number, leave)

    from dynet_jax.cli import train_main

    code = train_main()
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a compilation in the background, or a host that has died, would keep the process alive
