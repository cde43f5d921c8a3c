"""The loop of a process that answers questions of `dynet_jax.measure.worker`."""

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from dynet_jax.errors import UserError
from dynet_jax.measure.failures import Failure, what_failed

LEFT_ALONE = 75  # the exit status if the parent is gone; nothing is wrong in this process


def serve(answer: Callable[[dict], Any]) -> None:
    """Answers questions from stdin until it ends, by {"answer": ...}, or {"raised": text} if `answer` raises.

    The end of stdin also ends the process in the middle of a question, because nobody waits for its answer. Output of
    libraries goes to stderr, since it is not an answer.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    questions: queue.SimpleQueue[dict] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(questions,), daemon=True).start()
    while True:
        question = questions.get()
        try:
            reply = {"answer": answer(question)}
        except Exception as error:  # the failure of one question does not affect the next
            if not isinstance(error, UserError | Failure):
                traceback.print_exc()
            reply = {"raised": what_failed(error)}
        print(json.dumps(reply), file=answers, flush=True)


def _listen(questions: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        questions.put(json.loads(line))
    os._exit(LEFT_ALONE)
