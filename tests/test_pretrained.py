"""Trained networks that come with the package: what their cards say, and every command that takes them."""

import json
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

import dynet_jax
from benchmarks.kept_runs import NOT_KEPT
from benchmarks.pretrained import write_pretrained
from dynet_jax.cli import main, train_main
from dynet_jax.config.load import flatten_whole, load_config, override
from dynet_jax.errors import UserError
from dynet_jax.models.weights_file import read_weights, write_weights
from dynet_jax.predict import evaluate_workdir
from dynet_jax.pretrained import CARD_FILE, FOLDER, WEIGHTS_FILE
from dynet_jax.trained import open_trained
from dynet_jax.workdir.changes import changed_keys
from dynet_jax.workdir.files import read_config
from tests.test_cli import assert_one_line, run

NAMES = dynet_jax.list_pretrained()
DIGITS = "pretrained:dy_mobile_digits"


def test_there_are_some_and_they_are_small():
    assert "dy_mobile_digits" in NAMES
    files = [file for file in FOLDER.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert sum(file.stat().st_size for file in files) < 15e6
    assert {file.name for file in files} == {"__init__.py", "config.json", "labels.json", CARD_FILE, WEIGHTS_FILE}


@pytest.mark.parametrize("name", NAMES)
def test_a_card_agrees_with_its_network(name):
    network = dynet_jax.load_pretrained(name)
    card, config = network.card, read_config(FOLDER / name)
    assert card["name"] == name
    assert card["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"]))
    assert card["image_size"] == network.image_size == config.data.image_size
    assert len(network.class_names) == config.model.num_classes
    assert config.data.data_dir is None
    assert config.data.name == load_config(card["network"]).data.name == card["data"]
    assert f"--config={card['network']}" in card["command"]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_card_gives_its_configuration(name):
    """The card's command is read as train.py would read it."""
    card = dynet_jax.load_pretrained(name).card
    config = load_config(card["network"])
    override(config, [word for word in shlex.split(card["command"]) if word.startswith("--config.")])
    changed = changed_keys(flatten_whole(config), flatten_whole(read_config(FOLDER / name)))
    assert not set(changed) - NOT_KEPT


def test_loading_needs_only_the_layers_packages():
    code = (
        "import sys, dynet_jax; dynet_jax.load_pretrained('dy_mobile_digits'); "
        "print([name for name in ('optax', 'orbax', 'ml_collections', 'cv2', 'grain') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_logits_are_those_of_an_opened_network():
    network, opened = dynet_jax.load_pretrained("dy_mobile_digits"), open_trained(DIGITS)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, network.image_size, network.image_size, 3))
    images = np.float32((pixels - network.mean) / network.std)
    ours = network.model.apply(network.variables, images, train=False)
    theirs = opened.model.apply(opened.variables, images, train=False)
    np.testing.assert_array_equal(ours, theirs)
    assert opened.output_names == network.class_names
    assert opened.step == network.card["step"]


@pytest.mark.slow
def test_evaluation_gives_the_accuracy_of_the_card():
    card = dynet_jax.load_pretrained("dy_mobile_digits").card
    values = evaluate_workdir(open_trained(DIGITS).workdir)
    assert values["examples"] == card["test_images"]
    assert float(values["top1"]) == pytest.approx(card["top1"], abs=1.5 / card["test_images"])


@pytest.mark.slow
def test_a_picture_is_classified(tmp_path, capfd):
    digits = load_digits()
    for index in range(3):
        pixels = np.uint8(digits.images[index] * 255 / 16)
        Image.fromarray(pixels).save(tmp_path / f"{digits.target[index]}.png")
    code, out, err = run(main, ["predict", DIGITS, tmp_path, "--json", "--runtime=jax"], capfd)
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert [row["top"][0]["class"] for row in found] == ["0", "1", "2"]


@pytest.mark.slow
def test_a_prediction_imports_no_training_pipeline(tmp_path):
    Image.fromarray(np.uint8(load_digits().images[0] * 255 / 16)).save(tmp_path / "0.png")
    code = (
        "import sys; from dynet_jax.cli import main; "
        f"assert main(['predict', {DIGITS!r}, {str(tmp_path / '0.png')!r}, '--runtime=jax']) == 0; "
        "print([name for name in ('grain', 'dynet_jax.data.pipeline', 'dynet_jax.train') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ["[]"], result.stderr[-2000:]


@pytest.mark.slow
def test_an_export_is_written_here_and_not_into_the_package(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(main, ["export", DIGITS, "--format=native"], capfd)
    assert code == 0, err
    assert [file.name for file in tmp_path.iterdir()] == ["dy_mobile.dynet"]


def test_mistakes_are_answered_with_one_line(capfd, tmp_path):
    assert_one_line(
        run(main, ["predict", "pretrained:dy_mobil_digits", __file__], capfd), "did you mean dy_mobile_digits"
    )
    assert_one_line(run(main, ["evaluate", "pretrained:"], capfd), "choose from")
    assert_one_line(run(main, ["evaluate", DIGITS, "--step=3"], capfd), "leave out the step")
    config = "--config=dy_mobile:digits"
    assert_one_line(run(train_main, [config, f"--workdir={DIGITS}"], capfd), "only read", f"--init_from={DIGITS}")
    with pytest.raises(UserError, match="choose from"):
        dynet_jax.load_pretrained("x")


@pytest.mark.slow
def test_a_network_of_the_package_is_fine_tuned(tmp_path, capfd):
    arguments = [f"--workdir={tmp_path / 'run'}", f"--init_from={DIGITS}"]
    shape = [f"--config.model.{key}={value}" for key, value in _model_changes().items()]
    short = ["--config.epochs=0.1", "--config.warmup_epochs=0", "--config.learning_rate=1e-6"]
    code, out, err = run(train_main, ["--config=dy_mobile:digits", *shape, *short, *arguments], capfd)
    assert code == 0, err
    accuracy = float(out.split("top-1 ")[-1].split(" %")[0])
    assert accuracy > 90  # it goes on from the trained weights


def _model_changes():
    before, now = load_config("dy_mobile:digits").model, read_config(open_trained(DIGITS).workdir).model
    return {key: now[key] for key in now if now[key] != before.get(key)}


def test_weights_are_rounded_and_read_again(tmp_path):
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(3, 3, 4, 5)).astype(np.float32), random.normal(size=5).astype(np.float32)
    variables = {
        "params": {"a": {"kernel": kernel, "bias": bias}},
        "batch_stats": {"n": {"var": np.float32([1e9, 1e-9])}},
    }
    write_weights(tmp_path / "w", variables)
    assert load_file(tmp_path / "w")["params/a/kernel"].dtype == np.float16
    read = read_weights(tmp_path / "w", variables)
    np.testing.assert_array_equal(read["params"]["a"]["kernel"], kernel.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(read["params"]["a"]["bias"], bias)
    np.testing.assert_array_equal(read["batch_stats"]["n"]["var"], np.float32([1e9, 1e-9]))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(read))


def test_weights_of_another_network_are_refused(tmp_path):
    write_weights(tmp_path / "w", {"params": {"a": np.ones((2, 3), np.float32)}, "batch_stats": {}})
    for wanted in ({"a": np.ones((3, 2))}, {"b": np.ones((2, 3))}, {"a": np.ones((2, 3)), "b": np.ones(1)}, {}):
        with pytest.raises(UserError, match="another network"):
            read_weights(tmp_path / "w", {"params": wanted, "batch_stats": {}})
    (tmp_path / "short").write_bytes((tmp_path / "w").read_bytes()[:-3])
    for name in ("short", "nowhere"):
        with pytest.raises(UserError, match="cannot be read"):
            read_weights(tmp_path / name, {"params": {}, "batch_stats": {}})
    with pytest.raises(UserError, match="float16"):
        write_weights(tmp_path / "v", {"params": {"a": np.full((2, 2), 7e4, np.float32)}})


@pytest.mark.slow
def test_a_written_network_is_that_of_its_run(tmp_path, monkeypatch, capfd):
    workdir, folder = tmp_path / "run", tmp_path / "box" / "small"
    short = ["--config.epochs=0.1", "--config.warmup_epochs=0", "--config.model.width=0.5"]
    assert run(train_main, ["--config=fix_shuffle:digits", *short, f"--workdir={workdir}"], capfd)[0] == 0
    monkeypatch.setattr("dynet_jax.pretrained.FOLDER", folder.parent)
    card = write_pretrained(workdir, "small", "digits", None, folder)
    before, after = open_trained(workdir), open_trained(folder)
    rounded = jax.tree.map(lambda leaf: np.float16(leaf) if leaf.ndim > 1 else leaf, before.variables)
    jax.tree.map(np.testing.assert_array_equal, rounded, after.variables)
    assert (card["network"], card["step"], card["test_images"]) == ("fix_shuffle:digits", before.step, 359)
    assert "--config.epochs=0.1 --config.warmup_epochs=0.0" in card["command"]
    assert str(tmp_path) not in "".join(file.read_text() for file in folder.glob("*.json"))
