"""The line of progress, with a clock that the test moves."""

import io
from unittest import mock

import pytest

from dynet_jax.console import duration
from dynet_jax.train import progress
from dynet_jax.train import session as session_module
from dynet_jax.train.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "perf_counter", lambda: Clock.now)
    return Clock


def started(out, step=0, **options):
    line = Progress(**options, out=out)
    line.start(step)
    return line


def test_line(clock):
    out = io.StringIO()
    line = started(out, total_steps=330, batch_size=128)
    clock.now += 30.0
    rate = line.report(120, loss=0.7123, accuracy="top-1 93.1", learning_rate=0.05)
    assert rate == pytest.approx(120 * 128 / 30)
    # 210 of 330 steps remain, at 4 steps a second.
    assert out.getvalue() == ("step 120/330 36.4% | loss 0.712 | top-1 93.1 | lr 0.0500 | 512 img/s | ETA 52s\n")


def test_rate_is_of_the_last_steps_and_eta_of_all(clock):
    out = io.StringIO()
    line = started(out, total_steps=100, batch_size=10)
    clock.now += 10.0
    assert line.report(10, 1.0, "", 0.1) == pytest.approx(10.0)
    clock.now += 30.0
    assert line.report(20, 1.0, "", 0.1) == pytest.approx(10 * 10 / 30)
    assert out.getvalue().splitlines()[-1].endswith("| 3 img/s | ETA 2m40s")  # 80 steps of 2 s


def test_a_resumed_run_counts_its_own_steps(clock):
    out = io.StringIO()
    line = started(out, 1000, total_steps=1100, batch_size=10)
    clock.now += 5.0
    assert line.report(1050, 1.0, "", 0.1) == pytest.approx(100.0)
    assert out.getvalue().startswith("step 1050/1100 95.5% |")
    assert out.getvalue().endswith("ETA 5s\n")


def test_compilation_and_evaluation_do_not_count(clock):
    line = Progress(total_steps=40, batch_size=1, out=io.StringIO())
    clock.now += 60.0  # compiling
    line.start(0)
    clock.now += 5.0
    with line.paused():
        clock.now += 1000.0  # evaluating
    clock.now += 5.0
    assert line.report(20, 1.0, "", 0.1) == pytest.approx(2.0)


def test_a_step_that_is_finished_early_is_counted_with_its_time(clock):
    """A CPU runs the next step before the report: the last report of a run has no time of its own."""
    out = io.StringIO()
    line = started(out, total_steps=3, batch_size=10)
    rates = []
    for step, completed, now in ((1, 2, 104.0), (2, 3, 106.0), (3, 3, 106.001)):  # two seconds a step
        clock.now = now
        rates.append(line.report(step, 1.0, "", 0.1, completed=completed))
    assert rates == pytest.approx([5.0, 5.0, 5.0])
    lines = out.getvalue().splitlines()
    assert lines[0].endswith("| 5 img/s | ETA 2s")
    assert lines[2].endswith("| 5 img/s | ETA 0s")


class Value:
    """A value on a device."""

    def __init__(self, ready):
        self.is_ready = lambda: ready


@pytest.mark.parametrize(
    ("window", "completed"), [([], 0), ([True], 1), ([False], 0), ([True, False], 1), ([True, True], 2)]
)
def test_a_session_says_how_many_steps_are_finished(window, completed, monkeypatch):
    monkeypatch.setattr(session_module, "means", lambda window: {"loss": 1.0})
    monkeypatch.setattr(session_module.Session, "_refuse_divergence", lambda self, step, window: None)
    session = object.__new__(session_module.Session)
    session.ready, session.window = (8, []), [{"loss": Value(True), "top1": Value(ready)} for ready in window]
    session.run, session.progress, session.writer, session.dead = mock.Mock(), mock.Mock(), mock.Mock(), mock.Mock()
    session.run.schedule.return_value = 0.1
    session._report_ready()
    assert session.progress.report.call_args.kwargs == {"completed": 8 + completed}


def test_it_prints_to_the_terminal_by_default(clock, capsys):
    Progress(10, 1).say("hello")
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (61, "1m01s"), (3599.7, "1h00m"), (90061, "25h01m")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
