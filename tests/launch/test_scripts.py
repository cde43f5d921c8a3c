"""All scripts in launch/: their syntax, and their help."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.machine import ROOT

SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / "launch/slurm.sbatch"])
COMMANDS = [path for path in SCRIPTS if path.stat().st_mode & 0o100]

# Beside this interpreter, where requirements-dev.txt puts it, or anywhere.
BESIDE = Path(sys.executable).parent / "shellcheck"
SHELLCHECK = str(BESIDE) if BESIDE.exists() else shutil.which("shellcheck")


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


@pytest.mark.slow
@pytest.mark.skipif(not SHELLCHECK, reason="no shellcheck here")
def test_shellcheck():
    command = [SHELLCHECK, "--external-sources", "--source-path=SCRIPTDIR", *map(str, SCRIPTS)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


# What bash 3.2 or BSD's tools lack, among what one would like to write.
TOO_NEW = re.compile(
    r"mapfile|readarray|wait -[nfp]|declare -A|local -n|&>>|\|&|coproc|\$\{\w+(,|\^|@)|\w\[-\d|mktemp -|readlink -f"
    r"|tar --(?!extract)|sed -[ri]|date -d|xargs -r|sleep infinity"
)


@pytest.mark.parametrize("name", ["common.sh", "pack.sh", "ssh.sh", "tpu_common.sh", "tpu_vm.sh", "queued_resource.sh"])
def test_scripts_for_a_users_own_machine_suit_macos(name):
    lines = (ROOT / "launch" / name).read_text().splitlines()
    assert not [line for line in lines if TOO_NEW.search(line)]
    # With `set -u` an empty array is an unset variable there: these are the ones that are never empty.
    arrays = {found for line in lines for found in re.findall(r'(?<!\+)"\$\{(\w+)\[@\]\}"', line)}
    assert arrays <= {"arguments", "children", "codes", "command", "names"}


def test_usage_is_written_as_every_sed_reads_it():
    """BSD's needs a semicolon before a closing brace."""
    text = (ROOT / "launch/common.sh").read_text()
    (program,) = re.findall(r"sed -n '(.*)'", text)
    assert re.sub(r"\\\{.*?\\\}", "", program).endswith(";}")
