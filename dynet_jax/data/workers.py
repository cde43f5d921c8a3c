"""Worker processes by Grain: they leave signals to the process that started them, and end with it."""

import multiprocessing
import os
import signal
import threading

import grain
from absl import flags


def in_processes(batches: grain.IterDataset, workers: int) -> grain.IterDataset:
    """Returns the same batches, made by worker processes in rotation."""
    if not flags.FLAGS.is_parsed():  # Grain defines absl flags, which absl rejects without its own main function
        flags.FLAGS.mark_as_parsed()
    return batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=start_worker)


def start_worker(worker: int, workers: int) -> None:
    """Prepares a new process; Grain calls it in each.

    Ctrl-C, and the SIGTERM of a scheduler, reach every process of a job. The training loop answers them with a
    checkpoint, and needs its batches until then. A killed loop cannot notify its workers, so they watch it themselves.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent) -> None:
    parent.join()
    os._exit(1)
