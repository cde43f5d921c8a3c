"""launch/ssh.sh, with an ssh that writes down what it is asked."""

import shutil

from tests.launch.machine import ARGUMENTS, remote_command


def test_ssh(machine):
    machine.record("ssh", answer='case "$*" in *tar*) cat >/dev/null ;; esac')
    result = machine.run("ssh.sh", "me@first", "second", "--", *ARGUMENTS, EXTRA="cpu", PORT="99")
    assert result.returncode == 0, result.stderr
    for index, host in enumerate(["me@first", "second"]):
        calls = [call for call in machine.calls if host in call]
        unpack, install, train = calls
        assert unpack[-1] == "mkdir -p dynet_jax && tar --extract --gzip --directory=dynet_jax"
        assert remote_command(install) == ["launch/setup.sh", "cpu"]
        assert remote_command(train) == [
            *("launch/background.sh", "launch/worker.sh", *ARGUMENTS),
            *("--coordinator=first:99", "--processes=2", f"--process={index}"),
        ]


def test_ssh_starts_all_hosts_again(machine):
    """After a lost connection too; a mistake ends it."""
    (machine.bin / "date").symlink_to(shutil.which("date"))
    machine.record(
        "ssh",
        answer="""case "$*" in
  *tar*) cat >/dev/null ;;
  *worker.sh*) n=0; for word in "$@"; do [[ $word != second ]] || n=1; done
    echo >>"$here/starts-$n"; starts=$(sed -n '$=' "$here/starts-$n")
    if [[ $n == 1 ]]; then codes=(0 255 2); else codes=(75 75 75); fi; exit ${codes[starts-1]} ;;
esac""",
    )
    result = machine.run("ssh.sh", "first", "second", "--", "--config=a")
    assert result.returncode == 2
    assert sum("worker.sh" in call[-1] for call in machine.calls) == 6
    assert "exit code 75, starting again (1 of 100)" in result.stderr


def test_ssh_needs_hosts_and_arguments(machine):
    machine.record("ssh")
    for arguments in (["first"], ["--", "--config=a"], ["first", "--"]):
        assert machine.run("ssh.sh", *arguments).returncode == 2
    assert machine.calls == []
    assert machine.run("ssh.sh", "first", "second", "--", "--stop").returncode == 0
    assert [remote_command(call) for call in machine.calls] == [["launch/background.sh", "--stop"]] * 2
