"""Mistakes in the arguments of a launcher: one line, before anything is created, copied or installed."""

import re
import subprocess
import sys

import pytest

from tests.launch.machine import ROOT

# What is wrong, and what the one line says of it.
MISTAKES = [
    (["--stopp"], {}, "--stopp is not an argument like --config=FILE"),
    (["--workdir=runs/a"], {}, "--config=FILE is missing"),
    (["--config=a/b.py", "--workdir=runs/a"], {}, "there is no configuration a/b.py in this working tree"),
    (["--config=a:digits", "--workdirr=runs/a"], {}, "--workdirr=runs/a is not an argument"),
    (["--config=a"], {"RESTARTS": "abc"}, "RESTARTS must be a number, not abc"),
]
OF_SLICES = [
    (["--config=a"], {"NFS": "10.0.0.2"}, "NFS=10.0.0.2 is not like 10.0.0.2:/share"),
    (["--config=a"], {"TYPE": "v5e-16"}, "TYPE=v5e-16 is not like v5litepod-16"),
]
OF_SSH = [(["--config=a"], {"PORT": "abc"}, "PORT must be a number, not abc")]
WAYS = {
    "gpu_node.sh": ([], {}, MISTAKES),
    "ssh.sh": (["first", "second", "--"], {}, MISTAKES + OF_SSH),
    "tpu_vm.sh": ([], {"TPU": "t", "ZONE": "z"}, MISTAKES + OF_SLICES),
    "queued_resource.sh": ([], {"TPU": "t", "ZONE": "z"}, MISTAKES + OF_SLICES),
}


@pytest.mark.parametrize("script", WAYS)
def test_mistakes_are_told_before_anything_is_made(machine, script):
    before, variables, mistakes = WAYS[script]
    machine.record("gcloud", "ssh", "ssh-add", "python3")
    for arguments, more, message in mistakes:
        result = machine.run(script, *before, *arguments, **variables, **more)
        assert result.returncode == 2, arguments
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert machine.calls == []


def test_a_host_is_named_once(machine):
    machine.record("ssh")
    result = machine.run("ssh.sh", "me@first", "second", "first", "--", "--config=a")
    assert (result.returncode, machine.calls) == (2, [])
    assert "say every host once, not first again" in result.stderr


def test_launchers_know_the_arguments_of_train_py():
    options = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    known = set(re.findall(r"--\w+", (ROOT / "launch/common.sh").read_text()))
    # What the scripts themselves say of the hosts.
    assert set(re.findall(r"--\w+", options)) - {"--distributed", "--coordinator", "--processes", "--process"} <= known
