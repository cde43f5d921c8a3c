"""`dynet reproduce` with an impossible request: one line, and nothing is written."""

import pytest

from dynet_jax.cli import main
from tests.reproduce.fake_runs import finish, make_plan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=digit"], "did you mean digits?"),
        (["--dataset=folder:nowhere"], "nowhere"),
        (["--dataset=digits", "--budget=tiny"], "there is no budget 'tiny'"),
        (["--dataset=digits", "--experiments=table7"], "there is no experiment 'table7'; did you mean table"),
        (["--dataset=digits", "--seeds=0"], "--seeds=0 leaves nothing to train"),
        (["--dataset=digits", "--workers=0"], "'0' is not a positive number"),
        (["--dataset=digits", "--config.seed=1"], "seed is set by dynet reproduce"),
        (["--dataset=digits", "--config.batch_size=none"], "batch_size must be int"),
        (["--dataset=digits", "--config.data.image_size=0"], "data.image_size must be positive"),
        (["--dataset=digits", "--config.batch_size=5000"], "has 1438 training images, fewer than batch_size=5000"),
        (["--dataset=digits", "--config.schedule=square"], "square"),
        (["--dataset=digits", "--config.data.crop=foo"], "foo"),
        (["--dataset=digits", "--experiments="], "is not a list like table4,figure5"),
        (["--dataset=digits", "--report-only"], "there are no finished runs of this plan"),
        (["--dataset=digits", "--report-only", "--remeasure"], "--remeasure measures, which"),
        (["--dataset=digits", "--epochs=3"], "cannot read '--epochs=3'; set a key as --config.KEY=VALUE"),
        ([], "required: --dataset"),
    ],
)
def test_mistakes(arguments, message, tmp_path, capfd):
    try:
        code = main(["reproduce", f"--out={tmp_path / 'out'}", *arguments])
    except SystemExit as left:
        code = left.code
    _, err = capfd.readouterr()
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_report_of_what_there_is(tmp_path, capfd):
    finish(make_plan(tmp_path / "out", only=["table6"]), lambda arm, seed: None if seed == 2 else 10.0)
    arguments = ["--dataset=digits", "--experiments=table6", f"--out={tmp_path / 'out'}", "--report-only"]
    assert main(["reproduce", *arguments]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == [str(tmp_path / "out" / f"report.{kind}") for kind in ("html", "md")]
    assert err == ""
    assert "4 of 6 finished" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("way", ["--report-only", "--dry-run"])
def test_runs_of_another_recipe_are_not_reported(way, tmp_path, capfd):
    finish(make_plan(tmp_path / "out", only=["table6"]), lambda arm, seed: 10.0)
    arguments = ["--dataset=digits", "--experiments=table6", f"--out={tmp_path / 'out'}", "--config.learning_rate=0.9"]
    assert main(["reproduce", *arguments, way]) == 2
    assert "holds a plan with learning_rate=" in capfd.readouterr().err
    assert not (tmp_path / "out" / "report.md").exists()


def test_a_dry_run_lists_what_would_be_trained_and_writes_nothing(tmp_path, capfd):
    arguments = ["--dataset=digits", "--experiments=table6", f"--out={tmp_path / 'out'}", "--dry-run"]
    assert main(["reproduce", *arguments]) == 0
    out, _ = capfd.readouterr()
    names = [line.split("|")[1].strip() for line in out.splitlines()[2:]]
    assert names == ["dy_resnet18-w0.25-g1", "dy_resnet18-w0.25-g6"]
    assert not (tmp_path / "out").exists()
