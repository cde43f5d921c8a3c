"""A process that trains runs, one after the other, as requested by `dynet_jax.reproduce.training`.

A question is {"arm": NAME, "log": FILE, "config": {...}, "steps": N, "workdir": DIR}. Consecutive runs of one arm share
their compiled programs. The process ends in the middle of a run if its parent is gone; the run is later resumed from
its newest checkpoint.
"""

import os
from pathlib import Path

import jax
import ml_collections

from dynet_jax.errors import UserError
from dynet_jax.measure.serve import LEFT_ALONE, serve
from dynet_jax.reproduce.plan import FINISHED_FILE, last_evaluation
from dynet_jax.train.compilation import Programs
from dynet_jax.train.loop import train
from dynet_jax.train.program_cache import use_compilation_cache


class Trainer:
    """A trainer of runs, which keeps the compiled programs of the last run's arm."""

    def __init__(self):
        self._arm, self._programs = None, Programs()

    def answer(self, question: dict) -> None:
        """Trains one run. Raises UserError, or any exception of training."""
        _write_to(question["log"])
        if question["arm"] != self._arm:
            jax.clear_caches()
            self._arm, self._programs = question["arm"], Programs()
        workdir, config = Path(question["workdir"]), ml_collections.ConfigDict(_with_tuples(question["config"]))
        if train(config, workdir, programs=self._programs, ends_process=True):
            os._exit(LEFT_ALONE)
        if last_evaluation(workdir, question["steps"]) is None:
            raise UserError("its last evaluation could not be written; it is made again next time")
        (workdir / FINISHED_FILE).touch()


def _write_to(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _with_tuples(config: dict) -> dict:
    """Returns a configuration from JSON, which only has lists, with tuples."""
    kinds = {dict: _with_tuples, list: tuple}
    return {key: kinds.get(type(value), lambda v: v)(value) for key, value in config.items()}


if __name__ == "__main__":
    use_compilation_cache()
    serve(Trainer().answer)
