"""Scripts that run on one machine: setup.sh, gpu_node.sh, mount.sh and the image."""

import shlex
import subprocess

import pytest

from tests.launch.machine import ARGUMENTS, ROOT


def test_setup_installs_once(machine):
    script = (
        'if [[ $1 == -m && $2 == venv ]]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/pip"; fi'
    )
    machine.record("python3", answer=script)
    for kind in ("tpu", "tpu", "cuda13", "cpu"):
        result = machine.run("setup.sh", kind)
        assert result.returncode == 0, result.stderr
    asked, *rest = machine.calls
    assert asked[:2] == ["python3", "-c"]
    assert rest == [["python3", "-m", "venv", ".venv"]]
    calls = (machine.package / ".venv/bin/calls").read_text().split("\0\n\0")
    installed = [call.split("\0")[-3:] for call in calls if call]
    assert installed[0][1:] == [".[train,export,gcs]", "jax[tpu]"]
    assert installed[1][1:] == [".[train,export]", "jax[cuda13]"]
    assert installed[2][1:] == ["--editable", ".[train,export]"]
    assert len(installed) == 3  # the second call for TPUs found it done


@pytest.mark.slow
def test_two_hosts_with_one_folder_install_once(machine):
    """The second waits for the first, and finds it done."""
    script = """
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/pip"
    cp "$here/answer-python3" "$3/bin/answer-python" ;;
  "-m pip") sleep 1 ;;
esac"""
    machine.record("python3", answer=script)
    command = [str(machine.package / "launch/setup.sh"), "tpu"]
    hosts = [subprocess.Popen(command, env=machine.environment()) for _ in range(2)]
    assert [host.wait(30) for host in hosts] == [0, 0]
    calls = (machine.package / ".venv/bin/calls").read_text().split("\0\n\0")
    assert len([call for call in calls if call]) == 1


def test_setup_takes_another_interpreter_than_train_py(machine):
    machine.record("python3", "mine")
    result = machine.run("setup.sh", DRY_RUN="1", BASE_PYTHON="mine", PYTHON="python3")
    assert "mine -m venv .venv" in result.stdout.splitlines()


def test_prepare(machine):
    machine.record("python3")
    result = machine.run("prepare.sh", "--new", "tpu", DRY_RUN="1", NFS="h:/s")
    lines = result.stdout.splitlines()
    assert lines[0] == "launch/background.sh --new"
    assert any("jax\\[tpu\\]" in line for line in lines)
    assert lines[-2].endswith("mount -t nfs h:/s /mnt/work")


def test_nothing_is_installed_under_a_run(machine):
    with subprocess.Popen(
        [str(machine.package / "launch/background.sh"), "bash", "-c", "echo start; sleep 30"],
        env=machine.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout.readline() == "start\n"
        result = machine.run("prepare.sh", "tpu")
        assert machine.run("background.sh", "--stop").returncode == 0
    assert (result.returncode, result.stdout) == (0, "prepare.sh: a run is under way, nothing is installed\n")
    assert machine.calls == []


def test_setup_where_python_is_too_old(machine):
    machine.record("python3", answer="[[ $1 != -c ]]")
    result = machine.run("setup.sh", "tpu", DRY_RUN="1")
    assert "python3 -m uv venv --seed --python 3.12 .venv" in result.stdout.splitlines()
    result = machine.run("setup.sh", BASE_PYTHON="python3")
    assert result.returncode == 2
    assert "python3 is not Python 3.11 or later" in result.stderr


def test_setup_refuses_an_unknown_kind(machine):
    result = machine.run("setup.sh", "rocm")
    assert (result.returncode, machine.calls) == (2, [])
    assert "'rocm' is none of cpu, tpu" in result.stderr


def test_gpu_node(machine):
    machine.record("python3")
    result = machine.run("gpu_node.sh", *ARGUMENTS, DRY_RUN="1")
    lines = [shlex.split(line) for line in result.stdout.splitlines()]
    assert lines[-1] == ["python3", "-u", "train.py", *ARGUMENTS]
    assert "jax[cuda13]" in lines[1]


def test_mount(machine):
    machine.record("sudo", "mount.nfs")
    result = machine.run("mount.sh", NFS="10.0.0.2:/share")
    assert result.returncode == 0, result.stderr
    assert machine.calls == [
        ["sudo", "mkdir", "-p", "/mnt/work"],
        ["sudo", "mount", "-t", "nfs", "10.0.0.2:/share", "/mnt/work"],
        ["sudo", "chmod", "a+rwx", "/mnt/work"],  # which is not there on this machine, so not writable
    ]
    assert machine.run("mount.sh").returncode == 2


def test_image():
    lines = (ROOT / "launch/Dockerfile").read_text().splitlines()
    assert 'ENTRYPOINT ["launch/worker.sh"]' in lines
    assert ".git" in (ROOT / "launch/Dockerfile.dockerignore").read_text().splitlines()
