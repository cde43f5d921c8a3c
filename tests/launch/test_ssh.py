"""launch/ssh.sh, with an ssh that writes down what it is asked."""

import subprocess

import pytest

from tests.launch.machine import ARGUMENTS, remote_command

# Hosts without a run; what a start ends with is said by `codes`, one list for every host, in the order of the starts.
HOSTS = """case "$*" in
  *--running*) exit 1 ;;
  *tar*) cat >/dev/null ;;
  *worker.sh*) n=0; for word in "$@"; do [[ $word != second ]] || n=1; done
    echo >>"$here/starts-$n"; starts=$(sed -n '$=' "$here/starts-$n")
    if [[ $n == 1 ]]; then codes=(SECOND); else codes=(FIRST); fi; exit ${codes[starts-1]} ;;
esac"""


def hosts(machine, first: str = "0", second: str = "0") -> None:
    machine.record("ssh", answer=HOSTS.replace("FIRST", first).replace("SECOND", second))


def starts(machine) -> int:
    return sum("worker.sh" in call[-1] for call in machine.calls)


def test_ssh(machine):
    hosts(machine)
    result = machine.run("ssh.sh", "me@first", "second", "--", *ARGUMENTS, EXTRA="cpu", PORT="99")
    assert result.returncode == 0, result.stderr
    for index, host in enumerate(["me@first", "second"]):
        calls = [call for call in machine.calls if host in call]
        running, unpack, prepare, train = calls
        assert remote_command(running) == ["launch/background.sh", "--running"]
        assert unpack[-1] == (
            "mkdir -p dynet_jax && flock dynet_jax/.venv.lock tar --extract --gzip --directory=dynet_jax"
        )
        assert remote_command(prepare) == ["launch/prepare.sh", "--new", "cpu"]
        assert remote_command(train) == [
            *("launch/background.sh", "launch/worker.sh", *ARGUMENTS),
            *("--coordinator=first:99", "--processes=2", f"--process={index}"),
        ]
    # No host installs while another may still unpack into a home directory that they share.
    last_copy = max(i for i, call in enumerate(machine.calls) if "tar" in call[-1])
    assert last_copy < min(i for i, call in enumerate(machine.calls) if "prepare.sh" in call[-1])


def test_nothing_is_copied_over_a_run(machine):
    machine.record("ssh")
    assert machine.run("ssh.sh", "first", "--", "--config=a").returncode == 0
    running, prepare, train = map(remote_command, machine.calls)
    assert running == ["launch/background.sh", "--running"]
    assert prepare[0] == "launch/prepare.sh"
    assert train[:2] == ["launch/background.sh", "launch/worker.sh"]


def test_ssh_starts_all_hosts_again(machine):
    """The script also restarts after a lost connection; a mistake ends it."""
    hosts(machine, first="75 75 75", second="0 255 2")
    result = machine.run("ssh.sh", "first", "second", "--", "--config=a")
    assert result.returncode == 2
    assert starts(machine) == 6
    assert "exit code 75, starting again (1 of 100)" in result.stderr


@pytest.mark.parametrize(
    ("first", "second", "code"), [("134", "1", 1), ("1", "134", 1), ("1", "2", 2), ("255", "137", 137), ("76", "1", 1)]
)
def test_one_host_that_fails_is_not_started_again(machine, first, second, code):
    """The others end because it has."""
    hosts(machine, first, second)
    result = machine.run("ssh.sh", "first", "second", "--", "--config=a")
    assert (result.returncode, starts(machine)) == (code, 2)


@pytest.mark.parametrize(("first", "second"), [("76", "75"), ("75", "76"), ("255", "76"), ("76", "0")])
def test_a_stopped_run_is_not_started_again(machine, first, second):
    hosts(machine, first, second)
    result = machine.run("ssh.sh", "first", "second", "--", "--config=a")
    assert (result.returncode, starts(machine)) == (75, 2)
    assert result.stderr == "ssh.sh: stopped\n"


def here_is_the_host(machine) -> None:
    """An ssh to this machine, where train.py is the one of `python`."""
    machine.record(
        "ssh",
        answer="""
case "${@: -1}" in
  *tar*) cat >/dev/null ;;
  *prepare.sh*) "$HOME/../package/launch/background.sh" --new ;;
  *) cd "$HOME/.." && eval "${@: -1}" ;;
esac""",
    )


def python(machine, script: str) -> str:
    path = machine.home / "python"
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)
    return str(path)


SAVES = "trap 'echo saved; exit 75' TERM; echo ready; while true; do sleep 0.1; done"


def begin(machine, script: str, **variables: str) -> subprocess.Popen:
    here_is_the_host(machine)
    environment = machine.environment(DIR="package", PYTHON=python(machine, script), **variables)
    command = [str(machine.package / "launch/ssh.sh"), "host", "--", "--config=a"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop(machine) -> int:
    return machine.run("ssh.sh", "host", "--", "--stop", DIR="package").returncode


def test_stop_ends_the_script_that_shows_the_run(machine):
    with begin(machine, SAVES) as script:
        assert script.stdout.readline() == "ready\n"
        assert stop(machine) == 0
        assert script.stdout.read() == "saved\n"
        assert script.wait(10) == 75
        assert script.stderr.read() == "ssh.sh: stopped\n"
    # The next one is a new run.
    with begin(machine, "echo new") as script:
        assert (script.stdout.read(), script.wait(10)) == ("new\n", 0)


@pytest.mark.slow
def test_stop_ends_a_script_in_its_pause(machine):
    with begin(machine, "echo once; exit 75", PAUSE="4") as script:
        assert script.stderr.readline() == "ssh.sh: exit code 75, starting again (1 of 100)\n"
        assert stop(machine) == 0
        assert (script.stdout.read(), script.wait(20)) == ("once\n", 75)


def test_ssh_needs_hosts_and_arguments(machine):
    machine.record("ssh")
    for arguments in (["first"], ["--", "--config=a"], ["first", "--"]):
        assert machine.run("ssh.sh", *arguments).returncode == 2
    assert machine.calls == []
    assert machine.run("ssh.sh", "first", "second", "--", "--stop").returncode == 0
    assert [remote_command(call) for call in machine.calls] == [["launch/background.sh", "--stop"]] * 2
