"""Measurements of untrained tiny networks: their files, when they are made again, and the report about them."""

import json
import os
import signal

import pytest

from dynet_jax.cli import reproduce
from dynet_jax.models import registry
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.experiments import Experiment
from dynet_jax.reproduce.measurements import forget_latencies, measure_plan
from dynet_jax.reproduce.plan import FINISHED_FILE
from dynet_jax.reproduce.report import note_unmeasured, write_report
from dynet_jax.reproduce.training import Interrupted
from tests.analysis.workdirs import DIGITS, save_untrained
from tests.reproduce.fake_runs import finish, make_plan
from tests.train.tiny import tiny_network

DYNAMIC, FIXED = Arm("dy_tiny", 1.0, 3), Arm("fix_mobile_tiny", 1.0)


@pytest.fixture(autouse=True)
def models(monkeypatch):
    def dy_tiny(num_classes=10, width=1.0, group_size=3):
        return tiny_network(num_classes, strides=2, group_size=group_size)

    def fix_mobile_tiny(num_classes=10, width=1.0):
        return dy_tiny(num_classes).clone(dynamic=None)

    for builder, title in ((dy_tiny, "Dy-tiny-mobile"), (fix_mobile_tiny, "Fix-tiny-mobile")):
        info = registry.Registered(builder.__name__, builder, title=title)
        monkeypatch.setitem(registry._MODELS, builder.__name__, info)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("plan") / "out"


def tiny_plan(out):
    plan = make_plan(out, seeds=2)
    plan.budget = plan.budget._replace(latency_networks=(), images=40)
    pair = Experiment((DYNAMIC, FIXED), ((DYNAMIC, FIXED),))
    plan.experiments = {"table4": pair, "figure5": pair}
    return plan


def times(out):
    return {file: file.stat().st_mtime_ns for file in (out / "measured").rglob("*") if file.is_file()}


@pytest.mark.slow
def test_each_thing_is_measured_once_and_reported(out):
    plan, lines = tiny_plan(out), []
    finish(plan, lambda arm, seed: 10.0 + seed + arm.is_dynamic)
    for arm in plan.arms:
        for job in plan.jobs(arm):
            save_untrained(job.workdir, plan.config(job), DIGITS)
            (job.workdir / FINISHED_FILE).touch()
    measure_plan(plan, lines.append)
    made = times(out)
    assert sorted(str(file.relative_to(out / "measured")) for file in made) == [
        "arm_latency.json",
        "coefficients/dy_tiny-w1-g3-nearest.png",
        "coefficients/dy_tiny-w1-g3.json",
        "coefficients/fix_mobile_tiny-w1.json",
        *(f"correlation/{arm.name}-s{seed}.json" for arm in (DYNAMIC, FIXED) for seed in (0, 1)),
        "latency.csv",
        "latency_machine.json",
    ]
    assert lines[-1].startswith(f"measuring {len(lines)}/{len(lines)}: ")
    (correlation,) = json.loads((out / "measured" / "correlation" / "dy_tiny-w1-g3-s1.json").read_text()).values()
    assert correlation["images"] == 40

    lost = out / "measured" / "correlation" / "dy_tiny-w1-g3-s1.json"
    before = lost.read_text()
    lost.unlink()
    assert measure_plan(plan, lines.append) == {}
    assert lost.read_text() == before
    assert {file for file, time in times(out).items() if made[file] != time} == {lost}

    page, text = (file.read_text() for file in write_report(plan))
    for title in ("Fig. 2 and 6: correlation", "Coefficients", "Effective rank", "Accuracy and cost"):
        assert f"## {title}" in text
    assert "| Fig. 6" in text
    assert "Nearest images in the space of coefficients: Dy-tiny-mobile" in page


def finished_plan(out):
    plan = tiny_plan(out)
    finish(plan, lambda arm, seed: 10.0 + seed)
    return plan


def test_a_signal_ends_measuring(tmp_path, monkeypatch):
    plan, begun = finished_plan(tmp_path / "out"), []

    def measure(plan, job):
        begun.append(job)
        os.kill(os.getpid(), signal.SIGTERM)
        return "{}"

    monkeypatch.setattr("dynet_jax.reproduce.measurements._correlation", measure)
    with pytest.raises(Interrupted), reproduce._leaving_by_signal():
        measure_plan(plan, print)
    assert len(begun) == 1
    assert not list((plan.out / "measured").rglob("*.json"))


@pytest.mark.slow
def test_what_cannot_be_measured_is_said_in_the_report(tmp_path, monkeypatch):
    plan, lines = finished_plan(tmp_path / "out"), []

    def fail(plan, job):
        raise RuntimeError("out of memory")

    for name in ("_correlation", "_coefficients", "_ranks", "_arm_latency"):
        monkeypatch.setattr(f"dynet_jax.reproduce.measurements.{name}", fail)
    failed = measure_plan(plan, lines.append)
    assert len(failed) == 2 * 2 + 2 + 1
    assert set(failed.values()) == {"RuntimeError: out of memory"}
    assert "Traceback" in (plan.out / "measured" / "errors.log").read_text()
    note_unmeasured(plan, failed)
    _, text = (file.read_text() for file in write_report(plan))
    assert "**Not measured**: `arm_latency.json`: RuntimeError: out of memory" in text


def test_only_what_is_measured_again_is_forgotten(tmp_path):
    plan = tiny_plan(tmp_path / "out")
    (plan.out / "measured").mkdir()
    files = [plan.out / "measured" / name for name in ("arm_latency.json", "latency.csv")]
    for file in files:
        file.touch()
    plan.is_whole = False
    forget_latencies(plan)
    assert [file.exists() for file in files] == [False, True]
