"""Resuming with another configuration: what may change, and that some training is left."""

import json

import pytest

from dynet_jax.errors import UserError
from dynet_jax.train import loop
from dynet_jax.train.compilation import Programs
from dynet_jax.train.setup import count_steps
from dynet_jax.train.startup import start_up
from dynet_jax.workdir.changes import check_progress
from dynet_jax.workdir.files import claim, read_config
from tests.train.test_checkpoint import save

DIGITS = [str(digit) for digit in range(10)]
IMAGES = {"training images": 1438, "test images": 359}  # of digits: 22 steps of 64 images an epoch


@pytest.fixture
def stopped(tiny_config, tmp_path):
    """A work directory at step 41 of 70."""
    tiny_config.epochs = 70 / 22
    claim(tmp_path, tiny_config, DIGITS, IMAGES)
    save(tmp_path, 41)
    return tmp_path


def changed(config, **changes):
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return other


@pytest.mark.parametrize("batch_size", [32, 128])
@pytest.mark.parametrize("allowed", [True, False])
def test_another_batch_is_refused_as_steps_are_counted_in_it(tiny_config, stopped, batch_size, allowed):
    """At step 41 of 70, a batch twice as large would have been at the end of 35 steps, and "done" at once."""
    before = {path.name: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    with pytest.raises(UserError) as caught:
        start_up(changed(tiny_config, batch_size=batch_size), stopped, allow_config_change=allowed)
    assert str(caught.value) == (
        f"{stopped} was trained with batch_size=64, not {batch_size}. Use another --workdir, which "
        f"--init_from={stopped} gives these parameters, or the configuration it was started with; batch_size=64 has to "
        "stay: it is the unit of steps"
    )
    assert {p.name: p.read_bytes() for p in stopped.iterdir() if p.is_file() and p.name != ".lock"} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"epochs": 35 / 22},
            r"with the changed epochs: .* is at step 41, and the run has 35\. Use --config\.epochs=2 ",
        ),
        ({"epochs": 0.5}, r"with the changed epochs: .* is at step 41, and the run has 11\. Use --config\.epochs=2 "),
        ({"epochs": 41 / 22, "learning_rate": 0.1}, "with the changed epochs, learning_rate: .* the run has 41"),
    ],
    ids=str,
)
def test_a_change_with_which_nothing_would_be_trained(tiny_config, stopped, changes, message):
    before = (stopped / "config.json").read_bytes()
    with pytest.raises(UserError, match=message):
        start_up(changed(tiny_config, **changes), stopped, allow_config_change=True)
    assert (stopped / "config.json").read_bytes() == before


def test_fewer_images_make_a_shorter_run(tiny_config, stopped):
    """The same epochs of a data set that has shrunk: it was of 2876 images when the run began."""
    (stopped / "images.json").write_text(json.dumps({**IMAGES, "training images": 2876}))
    with pytest.raises(UserError, match=r"with the changed epochs, training images: .*--config\.epochs=2 or more"):
        start_up(changed(tiny_config, epochs=35 / 22), stopped, allow_config_change=True)


def test_the_epochs_that_are_advised_are_enough(tiny_config, stopped):
    for step, per_epoch in ((41, 22), (44, 22), (1, 1), (21, 22)):
        with pytest.raises(UserError, match=r"--config\.epochs=\d+ or more") as caught:
            check_progress(stopped, step, per_epoch, step, ["epochs"])
        advised = int(str(caught.value).partition("--config.epochs=")[2].partition(" ")[0])
        assert count_steps(changed(tiny_config, epochs=float(advised)), per_epoch * 64)[1] > step


def test_the_part_that_is_behind_is_said(tiny_config, stopped, capsys):
    start_up(changed(tiny_config, epochs=100 / 22), stopped, allow_config_change=True).held.close()
    assert f"{stopped} is at step 41, 41 % of the run as it is now\n" in capsys.readouterr().out
    start_up(changed(tiny_config, log_every_steps=7), stopped).held.close()  # changes nothing of what is trained
    assert "% of the run" not in capsys.readouterr().out
    check_progress(stopped, 70, 22, 70, [])  # a finished run that is started again
    with pytest.raises(UserError, match=r"^nothing would be trained: .* is at step 71, and the run has 70\."):
        check_progress(stopped, 71, 22, 70, [])  # of which files were changed by hand


def test_checkpoints_of_which_nothing_says_what_they_are(tiny_config, stopped):
    (stopped / "config.json").unlink()
    with pytest.raises(UserError, match=r"has checkpoints and no config\.json, .*; put that file back, or use another"):
        start_up(tiny_config, stopped, allow_config_change=True)


@pytest.mark.slow
def test_a_change_that_does_not_fit_the_device_is_not_recorded(tiny_config, tmp_path, monkeypatch):
    """Else the next start with the old configuration would be the changed one."""
    tiny_config.epochs = 4 / 22
    assert loop.train(tiny_config, tmp_path) == 0

    def too_large(*arguments):
        raise UserError("it does not fit")

    monkeypatch.setattr(Programs, "steps", too_large)
    with pytest.raises(UserError, match="it does not fit"):
        loop.train(changed(tiny_config, epochs=8 / 22), tmp_path, allow_config_change=True)
    assert read_config(tmp_path).epochs == tiny_config.epochs
