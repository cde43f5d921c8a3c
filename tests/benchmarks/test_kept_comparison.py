"""Runs over seeds are compared pairwise, against numbers worked out by hand."""

import json
import statistics
from pathlib import Path

import pytest

from benchmarks import kept_comparison
from benchmarks.kept_comparison import arms_of, comparison, references
from benchmarks.kept_runs import KeptRun
from dynet_jax.errors import UserError
from dynet_jax.reproduce.foresight import SPREADS


def kept(network, seed, error, *changes, frozen=None):
    held = {"own": {"top1": 1 - error / 100, "loss": 1.0}}
    if frozen is not None:
        held |= {how: {"top1": 1 - value / 100, "loss": 1.0} for how, value in zip(("frozen", "shuffled"), frozen)}
    train = [{"step": 10, "loss": error / 10, "top1": 0.5, "learning_rate": 0.1}]
    changed = ["epochs=12.0", *changes, *([f"seed={seed}"] if seed else [])]
    return KeptRun(f"{network}{seed}{changes}", f"{network}:cifar10", changed, train, train, held)


FIX = [kept("fix_mobile", seed, error) for seed, error in ((0, 30.0), (1, 31.0), (2, 32.0))]
DY = [
    kept("dy_mobile", seed, error, "model.width=2", frozen=(error + 3, error + 9))
    for seed, error in ((0, 28.0), (1, 29.5), (2, 29.5))
]


def test_differences_are_paired_by_seed():
    arms = arms_of([*FIX, *DY])
    table = comparison(arms)
    assert table.rows[0] == ("fix_mobile", "", "3.100", "0: 30.00, 1: 31.00, 2: 32.00", "31.00 ± 1.00", "", "", "", "")
    # -2, -1.5, -2.5: mean -2, standard deviation 0.5; t(0.975, 2) = 4.3027, so 4.3027 x 0.5 / sqrt(3) = 1.24.
    assert table.rows[1][:2] == ("dy_mobile", "model.width=2")
    assert table.rows[1][4:] == ("29.00 ± 0.87", "-2.00 ± 1.24", "better", "32.00 ± 0.87", "38.00 ± 0.87")


def test_only_common_seeds_are_paired():
    arms = arms_of([*FIX, DY[1]])
    assert comparison(arms).rows[1][5:7] == ("-1.50, one seed", "one seed")
    arms = arms_of([FIX[0], DY[1]])
    assert comparison(arms).rows[1][5:7] == ("", "")


@pytest.mark.parametrize(("dy", "said"), [((30.1, 30.9, 32.2), "not decided"), ((33.0, 34.1, 35.0), "worse")])
def test_verdicts(dy, said):
    arms = arms_of([*FIX, *(kept("dy_mobile", seed, error) for seed, error in enumerate(dy))])
    assert comparison(arms).rows[1][6] == said


def test_mistakes():
    with pytest.raises(UserError, match="are the same run"):
        arms_of([FIX[0], FIX[0]])
    with pytest.raises(UserError, match="there are 0"):
        references(arms_of(FIX), "dy_mobile")
    twins = [kept("fix_mobile", 0, 30.0), kept("fix_mobile", 0, 30.0, "model.width=2")]
    with pytest.raises(UserError, match="fix_mobile, to compare with, must be one row, and there are 2"):
        references(arms_of([*DY, *twins]))


def test_networks_are_compared_with_their_twins_or_with_another():
    """CondConv-ResNet18 has no twin."""
    resnets = [kept(name, 0, error) for name, error in (("fix_resnet18", 9.0), ("dy_resnet18", 7.0))]
    arms = arms_of([*FIX, *DY, *resnets, kept("condconv_resnet18", 0, 8.0)])
    fix, dy, fix_resnet, *_ = arms
    assert references(arms) == [None, fix, None, fix_resnet, None]
    assert references(arms, "dy_mobile") == [dy, None, dy, dy, dy]
    assert comparison(arms, "fix_resnet18").rows[-1][5] == "-1.00, one seed"


@pytest.mark.parametrize(
    ("family", "fixed", "dynamic"),
    [
        ("ResNets", ["c32_fix_*"], ["c32_r_none_*"]),
        ("ShuffleNets", ["s16_s_fix*"], ["s16_s_lim4_f10*"]),
        ("MobileNets", ["m6_fix", "p16m_fix_*"], ["m6_norm_f1", "p16m_norm_*"]),
    ],
)
def test_plans_foresee_the_spread_of_the_kept_runs(family, fixed, dynamic):
    folder = Path(kept_comparison.__file__).parents[1] / "docs/measured/cifar10"
    errors = []
    for patterns in (fixed, dynamic):
        files = [file for pattern in patterns for file in folder.glob(f"{pattern}.json")]
        runs = [KeptRun(**json.loads(file.read_text())) for file in files]
        errors.append({run.option("seed"): run.error("own") for run in runs})
    differences = [errors[1][seed] - error for seed, error in errors[0].items()]
    assert len(differences) == len(errors[1]) >= 3
    assert round(statistics.stdev(differences), 1) == SPREADS[family]


def test_the_command_prints_and_draws(tmp_path, capsys):
    files = []
    for run in (*FIX, *DY):
        files.append(tmp_path / f"{run.name}.json")
        files[-1].write_text(json.dumps(run._asdict()))
    png = tmp_path / "x.png"
    assert kept_comparison.main([*map(str, files), f"--png={png}"]) == 0
    assert "All runs: `--config.epochs=12.0`" in capsys.readouterr().out
    assert png.stat().st_size > 10_000
