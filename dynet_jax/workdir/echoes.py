"""What Orbax and the libraries below it print of a failure that they raise as well."""

import logging
import sys


def report_failures_once() -> None:
    """Silence what Orbax, TensorStore and gcsfs print beside the exception that they raise: a screen for every array.

    For programs, which own their standard error; what went wrong is reported by `Checkpoints`.
    """
    for name in ("absl", "asyncio", "gcsfs", "fsspec"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    hook = sys.excepthook  # called, too, for what fails in a thread of TensorStore's

    def without_echo(kind, error, traceback):
        if str(error) != "Event loop is closed":
            hook(kind, error, traceback)

    sys.excepthook = without_echo
    sys.unraisablehook = lambda unraisable: None
