"""All scripts in launch/: their syntax, and their help."""

import shutil
import subprocess

import pytest

from tests.launch.machine import ROOT

SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / "launch/slurm.sbatch"])
COMMANDS = [path for path in SCRIPTS if path.stat().st_mode & 0o100]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0
    assert "set -euo pipefail" in script.read_text() or script not in COMMANDS


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.name)
def test_help_is_the_comment_at_the_top(machine, script):
    command = f"package/launch/{script.name}"  # from another folder
    result = subprocess.run(
        [command, "--help"], cwd=machine.home.parent, env=machine.environment(), capture_output=True, text=True
    )
    assert (result.returncode, result.stderr, machine.calls) == (0, "", [])
    assert f"launch/{script.name}" in result.stdout
    assert "DRY_RUN" in result.stdout or "All variables of tpu_vm.sh" in result.stdout


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck here")
def test_shellcheck():
    command = ["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *map(str, SCRIPTS)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
