"""Runs are compared by hand-made metrics."""

import json

import pytest

from benchmarks import compare_runs
from configs import common


def write_run(folder, network, seed, top1, *, finished=True, learning_rate=0.1):
    workdir = folder / f"{network}-{seed}"
    workdir.mkdir(parents=True)
    config = common.recipe(network, "fashion_mnist").unlock()
    config.seed, config.learning_rate = seed, learning_rate
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    rows = [{"step": 10, "kind": "train", "learning_rate": 0.0 if finished else 0.05}]
    rows += [{"step": step, "kind": "test", "top1": value} for step, value in zip((5, 10), (0.5, top1))]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    for seed, (dynamic, fixed) in enumerate([(0.9, 0.88), (0.91, 0.90), (0.92, 0.86)]):
        write_run(tmp_path, "dy_mobile", seed, dynamic)
        write_run(tmp_path, "fix_mobile", seed, fixed)
    return tmp_path


def test_means_and_paired_differences(folder, capsys):
    png = folder / "curves.png"
    assert compare_runs.main([str(folder), "dy_mobile", "fix_mobile", "--png", str(png)]) == 0
    lines = capsys.readouterr().out.splitlines()
    _, _, dynamic, fixed = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    # Differences -2, -1, -6: their mean is -3, their standard deviation sqrt(7).
    assert dynamic == ["dy_mobile", "10.00", "9.00", "8.00", "9.00", "1.00", "-3.00", "2.65"]
    assert fixed == ["fix_mobile", "12.00", "10.00", "14.00", "12.00", "2.00", "", ""]
    assert png.read_bytes().startswith(b"\x89PNG")


def test_an_unfinished_seed_does_not_count(folder):
    write_run(folder, "dy_mobile", 3, 0.99)
    write_run(folder, "fix_mobile", 3, 0.1, finished=False)
    assert compare_runs.read_runs(folder, ["dy_mobile", "fix_mobile"]).seeds == [0, 1, 2]


def test_unequal_recipes_are_refused(folder, capsys):
    write_run(folder, "fix_mobile", 3, 0.9, learning_rate=0.2)
    with pytest.raises(SystemExit):
        compare_runs.main([str(folder), "dy_mobile", "fix_mobile"])
    assert "fix_mobile-3 was trained by another recipe" in capsys.readouterr().err


def test_nothing_to_compare(tmp_path, capsys):
    with pytest.raises(SystemExit):
        compare_runs.main([str(tmp_path), "dy_mobile", "fix_mobile"])
    assert "there is no seed in" in capsys.readouterr().err
