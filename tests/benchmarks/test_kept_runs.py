"""Runs are stored compactly, named after their changes, and shown in tables and figures."""

import json

import pytest

from benchmarks import kept_runs, kept_tables
from configs import common
from dynet_jax.errors import UserError


def write_run(folder, name, network="dy_resnet18", *, finished=True, **changes):
    """The small files of a finished run."""
    config = common.recipe(network, "cifar10", **({"group_size": 6} if network.startswith("dy") else {})).unlock()
    config.data.name, config.model.width, config.epochs = "packed:somewhere", 0.125, 12.0
    for key, value in changes.items():
        config.update_from_flattened_dict({key: value})
    workdir = folder / name
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    rows = []
    images = {"training images": 128 * 2, "test images": 10}  # 24 steps
    (workdir / "images.json").write_text(json.dumps(images))
    for step, rate in ((10, 0.05), (24 if finished else 20, 2e-4)):
        row = {"step": step, "kind": "train", "loss": 3.0 / step, "top1": 0.123456789, "learning_rate": rate}
        if network.startswith("dy"):
            row |= {
                f"coefficients/stage{n}/{key}": n * step / 1e4 for n in (1, 2) for key in ("deviation", "from_half")
            }
        rows += [
            {**row, "gradient_norm": 1.0},
            {"step": step, "kind": "test", "loss": 1.0, "top1": step / 100, "top5": 1.0},
        ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


@pytest.fixture
def evaluations(monkeypatch):
    """Replaces the evaluation of a checkpoint by known results."""
    errors = {None: 0.7, "frozen": 0.6, "shuffled": 0.5, "half": 0.1}
    monkeypatch.setattr(
        kept_runs, "evaluate_workdir", lambda workdir, coefficients=None: {"top1": errors[coefficients], "loss": 1.0}
    )


def test_what_is_kept(tmp_path, evaluations, capsys):
    pairs = [["predictor", 100.0]]
    workdir = write_run(tmp_path, "a", seed=2, learning_rate_factors=pairs, **{"model.hidden_divisor": 8})
    assert kept_runs.main([str(workdir), "--variant=cifar10", f"--out={tmp_path / 'kept'}"]) == 0
    (run,) = kept_runs.read_kept([tmp_path / "kept/a.json"])
    assert run.config == "dy_resnet18:cifar10"
    changes = [
        "epochs=12.0",
        'learning_rate_factors=[["predictor", 100.0]]',
        "model.hidden_divisor=8",
        "model.width=0.125",
        "seed=2",
    ]
    assert run.changes == changes  # and not where the data lie
    assert (run.network, run.option("seed")) == ("dy_resnet18", "2")
    assert [run.error(how) for how in ("own", "frozen", "shuffled", "half")] == pytest.approx([30, 40, 50, 90])
    assert run.train[0] == {
        "step": 10,
        "loss": 0.3,
        "top1": 0.1235,
        "learning_rate": 0.05,
        **{f"coefficients/stage{n}/{key}": n / 1000 for n in (1, 2) for key in ("deviation", "from_half")},
    }
    assert "'--config.learning_rate_factors=[[\"predictor\", 100.0]]'" in run.command
    assert (tmp_path / "kept/a.json").stat().st_size < 2000


def test_another_group_size_is_a_change(tmp_path, evaluations):
    run = kept_runs.keep(write_run(tmp_path, "g1", **{"model.group_size": 1}), "cifar10")
    assert run.config == "dy_resnet18:cifar10"
    assert "model.group_size=1" in run.changes


def test_a_static_network_has_no_other_coefficients(tmp_path, evaluations):
    run = kept_runs.keep(write_run(tmp_path, "fix", "fix_resnet18"), "cifar10")
    assert list(run.held) == ["own"]
    assert run.error("frozen") is None


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="has not been trained to its end"):
        kept_runs.keep(write_run(tmp_path, "a", finished=False), "cifar10")


def test_the_others_are_kept_all_the_same(tmp_path, evaluations, capsys):
    workdirs = [write_run(tmp_path, "a", finished=False), write_run(tmp_path, "b")]
    assert kept_runs.main([*map(str, workdirs), "--variant=cifar10", f"--out={tmp_path / 'kept'}"]) == 2
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["b.json"]
    assert "not kept: " in capsys.readouterr().err


def test_static_networks_have_no_movement_to_draw(tmp_path, evaluations):
    run = kept_runs.keep(write_run(tmp_path, "fix", "fix_resnet18"), "cifar10")
    with pytest.raises(UserError, match="nothing to draw"):
        kept_tables.plot_movement([run], tmp_path / "x.png")


def test_tables_and_figures(tmp_path, evaluations, capsys):
    folder = tmp_path / "runs"
    folder.mkdir()
    workdirs = [
        write_run(folder, "fix", "fix_resnet18"),
        write_run(folder, "f1"),
        write_run(folder, "f100", learning_rate_factors=[["predictor", 100.0]]),
    ]
    kept = tmp_path / "kept"
    assert kept_runs.main([*map(str, workdirs), "--variant=cifar10", f"--out={kept}"]) == 0
    files = [str(kept / f"{workdir.name}.json") for workdir in workdirs]
    capsys.readouterr()
    assert kept_tables.main([*files, f"--png={tmp_path / 'movement.png'}", "--commands"]) == 0
    out = capsys.readouterr().out
    assert "All runs: `--config.epochs=12.0 --config.model.width=0.125`" in out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert rows[2:] == [
        ["fix_resnet18", "", "0.125", "30.00", "", "", "", ""],
        ["dy_resnet18", "", "0.125", "30.00", "40.00", "50.00", "90.00", "0.005"],
        [
            "dy_resnet18",
            'learning_rate_factors=[["predictor", 100.0]]',
            "0.125",
            "30.00",
            "40.00",
            "50.00",
            "90.00",
            "0.005",
        ],
    ]
    assert out.count("python train.py --config=") == 3
    assert (tmp_path / "movement.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("network", "changes", "factor"),
    [
        ("dy_resnet18", {}, 25.0),
        ("dy_resnet18", {"learning_rate_factors": []}, 1.0),
        ("dy_resnet18", {"learning_rate_factors": [["stage2", 3.0], ["predictor", 100.0]]}, 100.0),
        ("dy_mobile", {}, 1.0),
    ],
)
def test_the_factor_of_a_run_is_its_own_or_the_variants(tmp_path, evaluations, network, changes, factor):
    run = kept_runs.keep(write_run(tmp_path, "a", network, **changes), "cifar10")
    assert kept_tables.predictor_factor(run) == factor
