"""Imports that break the contracts of pyproject.toml are found anywhere in a file."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A line that each contract forbids, in a file where it would break that contract.
PLANTED = {
    "dynet_jax/ops/window.py": ("import flax.linen", "dynet_jax.ops is not allowed to import flax"),
    "dynet_jax/data/record.py": ("from dynet_jax.models import registry", "dynet_jax.data is not allowed to import"),
    "dynet_jax/measure/turns.py": ("def late(): import jax", "dynet_jax.measure is not allowed to import jax"),
    "dynet_jax/inference/fold.py": ("from dynet_jax.train import step", "dynet_jax.inference is not allowed to import"),
    "dynet_jax/layers/norm.py": (
        "def late(): from dynet_jax.ops.tpu import rolls",
        "dynet_jax.layers.norm -> dynet_jax.ops.tpu",
    ),
    "dynet_jax/errors.py": ("def late(): import benchmarks.timing", "is not allowed to import benchmarks"),
    "dynet_jax/train/sums.py": ("from dynet_jax import cli", "dynet_jax.train is not allowed to import dynet_jax.cli"),
    "dynet_runtime/model.py": ("from dynet_jax import errors", "dynet_runtime is not allowed to import dynet_jax"),
    "dynet_jax/odds_and_ends.py": ("", "odds_and_ends"),
}


def test_the_package_keeps_them_and_a_planted_import_breaks_them(tmp_path):
    def check():
        command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, " ".join(done.stdout.split())

    for package in ("dynet_jax", "dynet_runtime"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    code, said = check()
    assert code == 0, said
    contracts = said.count(" KEPT")
    for name, (line, _) in PLANTED.items():
        with (tmp_path / name).open("a") as file:
            file.write(f"\n{line}\n")
    code, said = check()
    assert code == 1
    assert said.count(" BROKEN") == contracts
    for _, message in PLANTED.values():
        assert message in said
