"""Measurements on untrained tiny networks: what files they leave, when they are made again, what the report says."""

import json

import pytest

from dynet_jax.models import registry
from dynet_jax.reproduce import arms
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.experiments import Experiment
from dynet_jax.reproduce.measurements import measure_plan
from dynet_jax.reproduce.plan import FINISHED_FILE
from dynet_jax.reproduce.report import write_report
from tests.analysis.workdirs import DIGITS, save_untrained
from tests.reproduce.fake_runs import finish, make_plan
from tests.train.tiny import tiny_network

DYNAMIC, FIXED = Arm("dy_tiny", 1.0, 3), Arm("fix_mobile_tiny", 1.0)


@pytest.fixture(autouse=True)
def models(monkeypatch):
    def dy_tiny(num_classes=10, width=1.0, group_size=3):
        return tiny_network(num_classes, strides=2, group_size=group_size)

    registry._BUILDERS["dy_tiny"] = dy_tiny
    registry._BUILDERS["fix_mobile_tiny"] = lambda num_classes=10, width=1.0: dy_tiny(num_classes).clone(dynamic=None)
    monkeypatch.setitem(arms.NAMES, "dy_tiny", "Dy-tiny-mobile")
    monkeypatch.setitem(arms.NAMES, "fix_mobile_tiny", "Fix-tiny-mobile")


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
    for title in ("Fig. 2 and 6: correlation", "What the coefficients do", "Effective rank", "What accuracy costs"):
        assert f"## {title}" in text
    assert "| Fig. 6" in text
    assert "Nearest images in the space of coefficients: Dy-tiny-mobile" in page
