"""What a process does that is asked by `dynet_jax.measure.worker`."""

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

LEFT_ALONE = 75  # the exit status: whoever asked has gone, nothing is wrong here


def serve(answer: Callable[[dict], Any]) -> None:
    """Answers questions from stdin until it ends, by {"answer": ...}, or {"raised": text} where `answer` raises.

    The end of stdin ends the process in the middle of a question, too: nobody waits for its answer. What libraries
    print goes to stderr: it is no answer.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    questions: queue.SimpleQueue[dict] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(questions,), daemon=True).start()
    while True:
        question = questions.get()
        try:
            reply = {"answer": answer(question)}
        except Exception as error:  # one question's failure is not that of the next
            if not isinstance(error, UserError | Failure):
                traceback.print_exc()
            reply = {"raised": what_failed(error)}
        print(json.dumps(reply), file=answers, flush=True)


def _listen(questions: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        questions.put(json.loads(line))
    os._exit(LEFT_ALONE)
