"""A process that trains runs: `python -m dynet_jax.reproduce.worker`, told what to do by lines of JSON.

It reads {"log": FILE, "jobs": [{"config": {...}, "steps": N, "workdir": DIR}, ...]}, all of one arm, and answers each
job by {"workdir": DIR, "error": null or text}; then {"idle": true}. It ends when its input does, in the middle of a run
too: whoever started it has gone then, and the run goes on from its newest checkpoint another time.
"""

import json
import os
import queue
import sys
import threading
from pathlib import Path

from dynet_jax.reproduce.plan import FINISHED_FILE, last_evaluation

INTERRUPTED = 75


def main(cores: str) -> None:
    """cores: those to be pinned to, like '0,1'; '' for all."""
    if cores and hasattr(os, "sched_setaffinity"):  # before JAX counts them
        os.sched_setaffinity(0, map(int, cores.split(",")))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    orders: queue.Queue[dict] = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()

    from dynet_jax.train.startup import use_compilation_cache

    use_compilation_cache()
    while True:
        order = orders.get()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        for workdir, error in _train_all(order["jobs"]):
            print(json.dumps({"workdir": workdir, "error": error}), file=answers, flush=True)
        print(json.dumps({"idle": True}), file=answers, flush=True)


def _listen(orders: queue.Queue) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(INTERRUPTED)


def _train_all(jobs: list[dict]):
    """(work directory, None or what went wrong), one after the other."""
    import jax
    import ml_collections

    from dynet_jax.errors import UserError, named
    from dynet_jax.train.compilation import Programs
    from dynet_jax.train.loop import train

    programs = Programs()
    for job in jobs:
        workdir, error = Path(job["workdir"]), None
        try:
            if train(ml_collections.ConfigDict(_with_tuples(job["config"])), workdir, programs=programs):
                os._exit(INTERRUPTED)
            if last_evaluation(workdir, job["steps"]) is None:
                raise UserError("its last evaluation could not be written; the next time it is made again")
            (workdir / FINISHED_FILE).touch()
        except UserError as mistake:
            error = str(mistake)
        except Exception as bug:  # one run's end is not that of the plan
            import traceback

            traceback.print_exc()
            error = named(bug)
        yield job["workdir"], error
    jax.clear_caches()


def _with_tuples(config: dict) -> dict:
    """JSON has lists only; configurations have tuples."""
    kinds = {dict: _with_tuples, list: tuple}
    return {key: kinds.get(type(value), lambda v: v)(value) for key, value in config.items()}


if __name__ == "__main__":
    main(sys.argv[1])
