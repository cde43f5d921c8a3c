"""Alternating calls: their order, their statistics beside NumPy's, and the treatment of failures and slow calls."""

import math
import time

import numpy as np
import pytest

from dynet_jax.errors import UserError
from dynet_jax.measure.failures import Deadline, OutOfTime, Raised, what_failed
from dynet_jax.measure.records import Records, read_rows
from dynet_jax.measure.turns import Turns, consecutive, quartiles, takes_part, time_in_turns, timed


@pytest.fixture
def random():
    return np.random.default_rng(0)


def recorded(calls, name, values=()):
    """A sample that notes its name, and takes the next of some numbers, or 1."""
    seconds = iter(values)

    def sample():
        calls.append(name)
        return next(seconds, 1.0)

    return sample


def test_turns_go_to_and_fro():
    calls, rounds = [], []
    Turns().take({name: recorded(calls, name) for name in "abc"}, 3, after=rounds.append)
    assert "".join(calls) == "abccbaabc"
    assert rounds == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 3, 5, 10])
def test_fewer_turns_are_spread(count):
    rounds = [number for number in range(10) if takes_part(number, count, 10)]
    assert len(rounds) == count
    assert max(np.diff([-1, *rounds, 10])) <= -(-10 // count) + 1
    turns = Turns()
    turns.take({name: lambda: 1.0 for name in "ab"}, 10, counts={"b": count})
    assert list(turns.seconds["b"]) == rounds
    assert list(turns.seconds["a"]) == list(range(10))


def test_numbers_are_those_of_numpy(random):
    samples = {name: random.lognormal(size=9) for name in "ab"}
    turns, calls = Turns(), []
    turns.take({name: recorded(calls, name, values.tolist()) for name, values in samples.items()}, 9)
    for name, values in samples.items():
        assert turns.times(name) == values.tolist()
        assert turns.median(name) == pytest.approx(np.median(values))
        assert quartiles(turns.times(name)) == pytest.approx(np.percentile(values, (25, 50, 75)))
    np.testing.assert_allclose(turns.ratios("a", "b"), samples["a"] / samples["b"])


def test_ratios_are_of_the_rounds_that_both_have(random):
    a, b = random.lognormal(size=(2, 10)).tolist()
    turns, calls = Turns(), []
    turns.take({"a": recorded(calls, "a", a), "b": recorded(calls, "b", b)}, 10, counts={"b": 4})
    both = [number for number in range(10) if takes_part(number, 4, 10)]
    assert turns.ratios("a", "b") == [a[number] / b[place] for place, number in enumerate(both)]
    assert turns.ratios("b", "a") == pytest.approx([1 / ratio for ratio in turns.ratios("a", "b")])
    assert turns.ratios("a", "nobody") == []


def test_one_that_fails_has_no_further_turns_and_no_numbers():
    calls, said = [], []

    def fail():
        calls.append("b")
        if calls.count("b") == 2:
            raise Raised("no more")
        return 1.0

    turns = Turns(say=said.append)
    turns.take({"a": recorded(calls, "a"), "b": fail, "c": recorded(calls, "c")}, 4)
    assert "".join(calls) == "abc" + "cba" + "ac" + "ca"
    assert turns.errors == {"b": "no more"}
    assert said == ["  b failed: no more"]
    assert turns.times("b") == turns.ratios("a", "b") == turns.ratios("b", "a") == []
    assert math.isnan(turns.median("b"))
    assert len(turns.ratios("a", "c")) == 4


def test_a_mistake_ends_all():
    def mistake():
        raise UserError("there is no memory")

    with pytest.raises(UserError, match="there is no memory"):
        Turns().take({"a": mistake, "b": lambda: 1 / 0}, 2)


@pytest.mark.parametrize("by_itself", [True, False])
def test_no_call_is_made_after_the_deadline(by_itself):
    calls = []

    def late():
        calls.append("late")
        if not by_itself:
            raise OutOfTime
        deadline._end = 0
        return 1.0

    deadline = Deadline(600)
    turns = Turns(deadline)
    turns.take({"a": lambda: 2.0, "late": late, "b": lambda: calls.append("b")}, 3)
    assert calls == ["late"]
    assert turns.times("a") == [2.0]
    assert turns.times("late") == ([1.0] if by_itself else [])
    assert turns.errors == {}
    assert Deadline().left == math.inf


def test_time_in_turns():
    calls = {"slow": 0, "quick": 0}

    def slow():
        calls["slow"] += 1
        time.sleep(0.1)

    def quick():
        calls["quick"] += 1
        time.sleep(0.002)

    turns = time_in_turns({"slow": slow, "quick": quick, "broken": lambda: 1 / 0}, rounds=3, once_above=0.05)
    assert calls["slow"] == 1
    assert 2 + 3 * 1 <= calls["quick"] <= 2 + 3 * 10  # as often as fills 20 ms
    assert turns.single == {"slow"}
    assert 0.1 <= turns.median("slow") < 10
    assert 0.002 <= turns.median("quick") < 10
    assert len(turns.times("quick")) == 3
    assert turns.errors == {"broken": "ZeroDivisionError: division by zero"}
    assert time_in_turns({"call": lambda: 1 / 0}, 3, 1.0, Deadline(0)).errors == {}


def test_what_is_waited_for_counts():
    waited = []
    seconds = timed(lambda: "result", 2, wait=lambda result: waited.append(result) or time.sleep(0.1))
    assert waited == ["result"]
    assert seconds >= 0.05


def test_consecutive_calls_fill_a_time():
    begin = time.perf_counter()
    times = consecutive(lambda: time.sleep(0.01), 0.05)
    assert 0.05 <= sum(times) + 0.005 <= time.perf_counter() - begin + 0.005
    assert 1 < len(times) <= 5
    assert all(seconds >= 0.01 for seconds in times)
    assert len(consecutive(lambda: None, 0, least=3)) == 3
    assert len(consecutive(lambda: time.sleep(0.02), 0.01)) == 1


def test_memory_is_what_frameworks_say():
    torch_error = type("OutOfMemoryError", (RuntimeError,), {})
    for error in (torch_error("CUDA out of memory"), RuntimeError("RESOURCE_EXHAUSTED: 1 GB"), MemoryError()):
        assert what_failed(error).startswith(f"out of memory ({type(error).__name__}: ")
    assert what_failed(ValueError("two\nlines")) == "ValueError: two lines"


def test_rows_are_taken_up_again_but_for_one_that_was_cut_off(tmp_path):
    file = tmp_path / "rows"
    file.write_text('{"name": "a", "value": 1}\n{"name": "a", "value": 2}\n{"name": "b", "va')
    kept = Records(file, key=lambda row: row["name"])
    assert kept.find("a")["value"] == 2
    assert kept.find("b") is None
    kept.add(name="b", value=3)
    assert [row["value"] for row in read_rows(file)] == [1, 2, 3]
    Records(file)
    assert read_rows(file) == []
