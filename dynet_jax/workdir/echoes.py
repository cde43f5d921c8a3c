"""Suppression of what Orbax and the libraries below it print about failures that they also raise."""

import logging
import sys


def report_failures_once() -> None:
    """Silences what Orbax, TensorStore and gcsfs print about an exception that they raise: pages for every array.

    It is meant for programs, which own their standard error; `Checkpoints` reports the failure.
    """
    for name in ("absl", "asyncio", "gcsfs", "fsspec"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    hook = sys.excepthook  # also called for failures in TensorStore's threads

    def without_echo(kind, error, traceback):
        if str(error) != "Event loop is closed":
            hook(kind, error, traceback)

    sys.excepthook = without_echo
    sys.unraisablehook = lambda unraisable: None
