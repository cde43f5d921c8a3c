"""Imports that break the contracts of pyproject.toml are found, wherever in a file they stand."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A line that each contract forbids, in a file where it would break that contract.
PLANTED = {
    "ops/window.py": ("import flax.linen", "dynet_jax.ops is not allowed to import flax"),
    "data/record.py": ("from dynet_jax.models import registry", "dynet_jax.data is not allowed to import"),
    "measure/turns.py": ("def late(): import jax", "dynet_jax.measure is not allowed to import jax"),
    "inference/fold.py": ("from dynet_jax.train import step", "dynet_jax.inference is not allowed to import"),
    "layers/norm.py": (
        "def late(): from dynet_jax.ops.tpu import rolls",
        "dynet_jax.layers.norm -> dynet_jax.ops.tpu",
    ),
    "errors.py": ("def late(): import benchmarks.timing", "is not allowed to import benchmarks"),
    "train/sums.py": ("from dynet_jax import cli", "dynet_jax.train is not allowed to import dynet_jax.cli"),
    "odds_and_ends.py": ("", "odds_and_ends"),
}


def test_the_package_keeps_them_and_a_planted_import_breaks_them(tmp_path):
    def check():
        command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, " ".join(done.stdout.split())

    shutil.copytree(ROOT / "dynet_jax", tmp_path / "dynet_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    code, said = check()
    assert code == 0, said
    contracts = said.count(" KEPT")
    for name, (line, _) in PLANTED.items():
        with (tmp_path / "dynet_jax" / name).open("a") as file:
            file.write(f"\n{line}\n")
    code, said = check()
    assert code == 1
    assert said.count(" BROKEN") == contracts
    for _, message in PLANTED.values():
        assert message in said
