"""The package as it is installed: the requirements of its parts, and what works without a checkout."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dynet_jax.arguments import EXTRAS
from dynet_jax.cli import main
from dynet_jax.config.load import load_config
from tests.quick_compilation import flags

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# An interpreter in which nothing of the extras can be imported.
BROUGHT = {"absl", "google", "msgpack", "scipy"}  # by JAX and Flax
MISSING = sorted({module for modules in EXTRAS.values() for module in modules} - BROUGHT)
WITHOUT_EXTRAS = f"""
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {MISSING}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def names(requirements: list[str]) -> set[str]:
    """Of packages, without those of an extra that another one includes."""
    found = {re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-") for requirement in requirements}
    return found - {"dynet-jax"}


def python(code: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags(devices=1)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def test_requirements_are_those_of_a_full_install():
    extras = PROJECT["optional-dependencies"]
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == [*PROJECT["dependencies"], *extras["train"], *extras["export"]]


def test_a_missing_module_is_told_by_the_extra_that_has_it():
    packages = importlib.metadata.packages_distributions()
    declared = {"optax", "orbax-checkpoint"}  # Flax brings these
    for extra, modules in EXTRAS.items():
        wanted = names(PROJECT["optional-dependencies"][extra])
        for module in modules:
            found = {package.lower().replace("_", "-") for package in packages[module]} & wanted
            assert found, f"{module} is of none of the packages of [{extra}]"
            declared |= found
    assert declared == names([line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra]])


@pytest.mark.slow
def test_layers_and_networks_need_no_extra(tmp_path):
    code = """
import jax, jax.numpy as jnp
from dynet_jax import *
x = jnp.ones((2, 8, 8, 16))
print(DynamicConv(4, (3, 3)).init_with_output(jax.random.key(0), x)[0].shape)
model = create_model("dy_mobile", num_classes=10, width=0.25, small_input=True)
print(jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.ones((1, 32, 32, 3)))[0].shape)
"""
    done = python(WITHOUT_EXTRAS + code, tmp_path)
    assert (done.stdout, done.returncode) == ("(2, 8, 8, 4)\n(1, 10)\n", 0), done.stderr


@pytest.mark.parametrize("command", [["train", "dy_mobile:digits"], ["predict", "runs/digits", "a.png"]])
def test_commands_say_which_extra_they_need(command, tmp_path):
    done = python(f"{WITHOUT_EXTRAS}\nfrom dynet_jax.cli import main\nsys.exit(main({command}))", tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r'dynet: this needs the package \w+: pip install "dynet_jax\[train\]"\n', done.stderr)


@pytest.mark.slow
def test_training_in_an_empty_folder(tmp_path):
    settings = ["batch_size=16", "bn_batch_size=16", "epochs=0.03", "model.width=0.1", "warmup_epochs=0"]
    arguments = ["train", "dy_mobile:digits", *(f"--config.{setting}" for setting in settings)]
    done = python(f"import sys\nfrom dynet_jax.cli import main\nsys.exit(main({arguments}))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step 3/3 100.0%" in done.stdout
    assert (tmp_path / "runs/dy_mobile-digits/curves.png").is_file()


@pytest.mark.parametrize("file", ["dy_mobile", "paper", "segmentation"])
def test_configurations_of_a_checkout_are_there_without_it(file, tmp_path, monkeypatch):
    path = f"configs/{file}.py"
    expected = load_config(str(ROOT / path))
    monkeypatch.chdir(tmp_path)
    assert load_config(path).to_dict() == load_config(file).to_dict() == expected.to_dict()


@pytest.mark.parametrize("written", ["dy_mobile:digits", "--config=dy_mobile:digits"])
def test_a_configuration_is_named_with_and_without_the_option(written, monkeypatch):
    seen = []
    monkeypatch.setattr("dynet_jax.train.loop.train", lambda config, workdir, **_: seen.append((config, workdir)))
    assert main(["train", written, "--config.seed=3"]) == 0
    ((config, workdir),) = seen
    assert (config.model.name, config.data.name, config.seed) == ("dy_mobile", "digits", 3)
    assert workdir == Path("runs/dy_mobile-digits")


def test_nothing_to_train_is_one_line(tmp_path):
    done = python("import sys\nfrom dynet_jax.cli import main\nsys.exit(main(['train']))", tmp_path)
    expected = "dynet: name what to train, like dynet train dy_mobile:digits; see dynet train --help\n"
    assert (done.returncode, done.stderr) == (2, expected)
