"""A worker process and its parent, when the worker answers, raises, crashes, hangs or prints."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dynet_jax.machine import cores
from dynet_jax.measure.failures import Deadline, Ended, OutOfTime, Raised
from dynet_jax.measure.serve import LEFT_ALONE
from dynet_jax.measure.worker import Worker, Workers

ROOT = Path(__file__).parents[2]
CHILD = """
import os, signal, sys, time
from dynet_jax.errors import UserError
print("printed before it serves"), print('{"do": "not an answer"}'), print("[1, 2]", flush=True)
from dynet_jax.measure.serve import serve

def answer(question):
    do = question["do"]
    print("chatter of a library", flush=True)
    os.write(1, b"chatter of a library in C, which is not UTF-8: \\xff\\n")
    if do == "raise": raise ValueError("two\\nlines")
    if do == "mistake": raise UserError("that is not possible")
    if do == "no room": raise RuntimeError("RESOURCE_EXHAUSTED: 1 GB")
    if do == "exit": os._exit(7)
    if do == "be killed": os.kill(os.getpid(), signal.SIGKILL)
    if do == "hang": time.sleep(600)
    if do == "facts":
        facts = {"cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []}
        facts |= {"pid": os.getpid(), "arguments": sys.argv[1:], "variable": os.environ.get("VARIABLE")}
        return facts | {"numbers": [1.5, float("inf"), None]}
    return question

print(*sys.argv[1:], "on stderr", file=sys.stderr)
serve(answer)
"""


@pytest.fixture(autouse=True)
def child(monkeypatch, tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")


@pytest.fixture
def worker():
    worker = Worker("child")
    yield worker
    worker.close()


def has_ended(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # Of a process whose parent has gone, a zombie may be left in a container without an init.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_questions_are_answered_one_after_the_other(worker):
    for number in range(3):
        assert worker.ask({"do": "repeat", "number": number}) == {"do": "repeat", "number": number}
    assert worker.ask({"do": "facts"}, seconds=60)["numbers"] == [1.5, float("inf"), None]


def test_what_raises_costs_its_question_only(worker):
    for do, text in (
        ("raise", "ValueError: two lines"),
        ("mistake", "that is not possible"),
        ("no room", "out of memory (RuntimeError: RESOURCE_EXHAUSTED: 1 GB)"),
    ):
        with pytest.raises(Raised) as raised:
            worker.ask({"do": do})
        assert str(raised.value) == text
    assert worker.ask({"do": "repeat"}) == {"do": "repeat"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("do", "limit", "text", "status"),
    [("exit", 60, "died: exit status 7", 7), ("be killed", 60, "died: signal 9", -9), ("hang", 1, "over 1 s", None)],
)
def test_one_that_ends(worker, do, limit, text, status):
    worker.ask({"do": "repeat"})  # it has started
    with pytest.raises(Ended) as ended:
        worker.ask({"do": do}, limit)
    assert (str(ended.value), ended.value.status) == (text, status)
    with pytest.raises(Ended, match="died"):  # and stays so, whoever asks
        worker.ask({"do": "repeat"})


def test_a_module_that_is_not_there():
    with Workers() as workers, pytest.raises(Ended, match="died: exit status 1"):
        workers.ask("no_such_module", {"do": "repeat"})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no processes")
def test_it_is_pinned_and_this_process_is_not(tmp_path):
    before = os.sched_getaffinity(0)
    with (tmp_path / "stderr").open("w") as file:
        worker = Worker("child", ["a", "b"], cores=cores()[:1], environment={"VARIABLE": "value"}, stderr=file)
    facts = worker.ask({"do": "facts"})
    worker.close()
    assert os.sched_getaffinity(0) == before
    assert facts["cores"] == cores()[:1]
    assert (facts["arguments"], facts["variable"]) == (["a", "b"], "value")
    assert facts["pid"] == worker.pid
    assert has_ended(worker.pid)
    text = (tmp_path / "stderr").read_text(errors="replace")
    assert text.startswith("a b on stderr\n")
    assert text.count("chatter of a library") == 2


def test_it_ends_with_who_asks_in_the_middle_of_a_question():
    script = """
import sys, threading
from dynet_jax.measure.worker import Worker
worker = Worker("child")
worker.ask({"do": "repeat"})
threading.Thread(target=worker.ask, args=({"do": "hang"},), daemon=True).start()
print(worker.pid, flush=True)
sys.stdin.read()
"""
    asking = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    pid = int(asking.stdout.readline())
    assert not has_ended(pid)
    asking.kill()
    asking.communicate()
    end = time.monotonic() + 30
    while not has_ended(pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_closing_ends_it_in_the_middle_of_a_question(worker):
    worker.ask({"do": "repeat"})
    threading.Timer(0.5, worker.close).start()
    with pytest.raises(Ended, match=f"exit status {LEFT_ALONE}"):
        worker.ask({"do": "hang"}, seconds=60)
    with pytest.raises(Ended, match=f"exit status {LEFT_ALONE}"):
        worker.ask({"do": "repeat"})


@pytest.mark.slow
def test_workers_are_started_when_they_are_asked_and_again_after_their_end():
    started = []

    def start(key):
        started.append(key)
        return Worker("child", [key])

    with Workers(start, limit=60) as workers:
        first = workers.ask("a", {"do": "facts"})
        assert workers.ask("a", {"do": "facts"})["pid"] == first["pid"]
        with pytest.raises(Raised):
            workers.ask("a", {"do": "raise"})
        other = workers.ask("b", {"do": "facts"})
        with pytest.raises(Ended, match="over 1 s"):
            workers.ask("a", {"do": "hang"}, limit=1)
        assert has_ended(first["pid"])
        again = workers.ask("a", {"do": "facts"})
        assert again["arguments"] == ["a"]
        assert started == ["a", "b", "a"]
    assert has_ended(again["pid"])
    assert has_ended(other["pid"])


def test_the_limit_of_all_ends_a_question_and_is_not_its_fault():
    with Workers(limit=600, deadline=Deadline(600)) as workers:
        workers.ask("child", {"do": "repeat"})
        workers._deadline = Deadline(0.5)
        with pytest.raises(OutOfTime):
            workers.ask("child", {"do": "hang"})
        with pytest.raises(OutOfTime):
            workers.ask("child", {"do": "repeat"})
