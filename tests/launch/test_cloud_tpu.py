"""launch/tpu_vm.sh and launch/queued_resource.sh, with a gcloud that tells of the states it is given."""

import shutil
import subprocess
import tarfile

import pytest

from tests.launch.machine import ARGUMENTS, remote_command

SLICE = {"TPU": "my-slice", "ZONE": "z1"}


def gcloud(machine, states: list[str], codes: list[int], kind: str = "tpu-vm", **more: list) -> None:
    """A gcloud whose slice has these states one after the other, and whose training ends with these codes.

    Also one after the other: `nodes`, states of the slice where `states` are a request's (else always READY); `hosts`,
    what all hosts have ended with when they are asked (else all with the same); `running`, whether they are under way
    (else not); `scp`, what copying ends with (else 0).
    """
    more = {"states": states, "codes": codes, "nodes": [], "hosts": [], "running": [], "scp": [], **more}
    for name, values in more.items():
        (machine.bin / name).write_text("".join(f"{value}\n" for value in values))
    machine.record(
        "gcloud",
        answer=f"""
next() {{ # of a file, or a value if there is none left
  local value; value=$(sed -n 1p "$here/$1"); sed 1d "$here/$1" >"$here/$1.new"; cp "$here/$1.new" "$here/$1"
  echo "${{value:-$2}}"
}}
describe() {{
  echo "WARNING: there is a newer gcloud" >&2
  case $1 in
    MISSING) echo "ERROR: NOT_FOUND: Resource was not found" >&2; exit 1 ;;
    DENIED) echo "ERROR: not logged in" >&2; exit 1 ;;
    *) echo "$1" ;;
  esac
}}
case "$*" in
  *"{kind} describe"*) describe "$(next states)" ;;
  *describe*) describe "$(next nodes READY)" ;;
  *tpu-vm\\ scp*) cp "$5" "$here/archive.tar.gz"; exit "$(next scp 0)" ;;
  *tar*) ;;
  *--running*) exit "$(next running 1)" ;;
  *--code*) for code in $(next hosts "$(cat "$here/last")"); do
      if [[ $code == lost ]]; then lost=255; else echo "exit code of this host: $code"; fi
    done; exit ${{lost:-0}} ;;
  *launch/worker.sh*) code=$(next codes); echo "$code" >"$here/last"; exit "$code" ;;
esac""",
    )


def is_question(call: list[str]) -> bool:
    return "describe" in call or call[-1].endswith(("--running", "--code"))


def actions(machine) -> list[list[str]]:
    return [call for call in machine.calls if not is_question(call)]


def verbs(machine) -> list[str]:
    return [" ".join(call[3:5]) for call in actions(machine)]


def starts(machine) -> int:
    return sum("launch/worker.sh" in call[-1] for call in machine.calls)


START = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", "tpu-vm ssh"]


def test_tpu_vm_makes_a_slice_and_trains_on_all_hosts(machine):
    gcloud(machine, ["MISSING", "CREATING", "READY"], [0])
    result = machine.run(
        "tpu_vm.sh", *ARGUMENTS, **SLICE, TYPE="v5p-16", SPOT="1", CREATE_FLAGS="--network=n --reserved"
    )
    assert result.returncode == 0, result.stderr
    create, scp, unpack, install, train = actions(machine)
    assert create == [
        *("gcloud", "compute", "tpus", "tpu-vm", "create", "my-slice", "--zone=z1", "--accelerator-type=v5p-16"),
        *("--version=v2-alpha-tpuv5", "--network=n", "--reserved", "--spot"),
    ]
    assert scp[3:5] == ["tpu-vm", "scp"]
    assert scp[6:] == ["my-slice:dynet_jax.tar.gz", "--zone=z1", "--worker=all"]
    for call in (unpack, install, train):
        assert call[:8] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-slice", "--zone=z1", "--worker=all"]
        assert len(call) == 9
    assert remote_command(install) == ["launch/prepare.sh", "--new", "tpu"]
    assert remote_command(train) == ["launch/background.sh", "launch/worker.sh", *ARGUMENTS, "--distributed"]


def test_unpacking_spares_a_run(machine):
    """The command as a host's shell takes it."""
    gcloud(machine, ["READY"], [0])
    assert machine.run("tpu_vm.sh", "--config=a", **SLICE).returncode == 0
    command = actions(machine)[1][-1].removeprefix("--command=")
    shutil.copy(machine.bin / "archive.tar.gz", machine.home / "dynet_jax.tar.gz")
    unpack = [shutil.which("sh"), "-c", command]
    train_py = machine.home / "dynet_jax/train.py"
    for _ in range(2):
        subprocess.run(unpack, cwd=machine.home, env=machine.environment(), check=True)
        assert train_py.exists()
        train_py.unlink()
    there = machine.home / "dynet_jax/launch/background.sh"
    with subprocess.Popen(
        [there, "bash", "-c", "echo start; sleep 30"], env=machine.environment(), stdout=subprocess.PIPE
    ) as run:
        assert run.stdout.readline() == b"start\n"
        subprocess.run(unpack, cwd=machine.home, env=machine.environment(), check=True)
        assert machine.run("background.sh", "--stop").returncode == 0
    assert not train_py.exists()


def test_the_archive_is_the_working_tree(machine):
    for name in (".git/x", ".venv/x", ".venv-tpu/x", "runs/x", "data/x", ".ruff_cache/x", "dynet_jax/data/kept.py"):
        path = machine.package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    gcloud(machine, ["READY"], [0])
    assert machine.run("tpu_vm.sh", "--config=a", **SLICE).returncode == 0
    with tarfile.open(machine.bin / "archive.tar.gz") as archive:
        names = {name for name in archive.getnames() if not name.startswith("./launch/")}
    assert "./train.py" in names
    assert "./dynet_jax/data/kept.py" in names
    assert not [name for name in names if name.endswith("/x")]
    assert not list(machine.home.glob("dynet_jax.*"))


@pytest.mark.slow
def test_tpu_vm_starts_again_and_replaces_a_preempted_slice(machine):
    states = ["READY", "READY", "READY", "PREEMPTED", "PREEMPTED", "MISSING", "READY"]
    gcloud(machine, states, [75, 255, 1, 0])
    result = machine.run("tpu_vm.sh", "--config=a", **SLICE)
    assert result.returncode == 0, result.stderr
    assert verbs(machine) == [*START * 3, "tpu-vm delete", "tpu-vm create", *START]
    (delete,) = (call for call in machine.calls if "delete" in call)
    assert delete[5:] == ["my-slice", "--zone=z1", "--quiet"]
    prepared = [remote_command(call)[1:] for call in machine.calls if "launch/prepare.sh" in call[-1]]
    assert prepared == [["--new", "tpu"], *[["tpu"]] * 3]  # a --stop between two starts is not forgotten


@pytest.mark.parametrize(("code", "restarts", "started"), [(2, "9", 1), (1, "9", 1), (75, "1", 2)])
def test_tpu_vm_gives_up(machine, code, restarts, started):
    gcloud(machine, ["READY"] * 9, [code] * 9)
    result = machine.run("tpu_vm.sh", "--config=a", **SLICE, RESTARTS=restarts)
    assert result.returncode == code
    assert verbs(machine).count("tpu-vm scp") == started
    assert "tpu-vm delete" not in verbs(machine)


@pytest.mark.parametrize(
    ("returned", "hosts", "code"),
    [
        (134, "134 1 134", 1),
        (1, "75 2 1", 2),
        (134, "1 lost", 1),
        (1, "0 0 0", 0),  # gcloud itself has failed
    ],
)
def test_every_host_is_asked_how_it_has_ended(machine, returned, hosts, code):
    gcloud(machine, ["READY"] * 9, [returned], hosts=[hosts])
    assert machine.run("tpu_vm.sh", "--config=a", **SLICE).returncode == code
    assert starts(machine) == 1


@pytest.mark.parametrize("hosts", ["134 75", "75 lost", "lost", "255 0"])
def test_what_is_worth_another_start(machine, hosts):
    """The decision does not depend on gcloud's exit code."""
    gcloud(machine, ["READY"] * 9, [1, 0], hosts=[hosts])
    assert machine.run("tpu_vm.sh", "--config=a", **SLICE).returncode == 0
    assert starts(machine) == 2


@pytest.mark.parametrize("hosts", ["76 75 134", "76 76", "76 lost"])
def test_a_stopped_run_is_not_started_again(machine, hosts):
    gcloud(machine, ["READY"] * 9, [75], hosts=[hosts])
    result = machine.run("tpu_vm.sh", "--config=a", **SLICE)
    assert (result.returncode, starts(machine)) == (75, 1)
    assert "tpu_vm.sh: stopped\n" in result.stderr


def test_nothing_is_installed_where_all_hosts_are_under_way(machine):
    gcloud(machine, ["READY"], [0], running=[0])
    assert machine.run("tpu_vm.sh", "--config=a", **SLICE).returncode == 0
    assert verbs(machine) == ["tpu-vm ssh"]
    assert starts(machine) == 1


def test_a_slice_that_is_lost_while_it_is_installed_is_made_again(machine):
    gcloud(machine, ["READY", "PREEMPTED", "PREEMPTED", "MISSING", "READY"], [0], scp=[1])
    result = machine.run("tpu_vm.sh", "--config=a", **SLICE, RESTARTS="1")
    assert result.returncode == 0, result.stderr
    assert verbs(machine) == ["tpu-vm scp", "tpu-vm delete", "tpu-vm create", *START]
    assert "exit code 255, starting again (1 of 1)" in result.stderr
    assert not list(machine.home.glob("dynet_jax.*"))


def test_an_installation_that_always_fails_is_told(machine):
    gcloud(machine, ["READY"] * 9, [], scp=[1] * 9)
    result = machine.run("tpu_vm.sh", "--config=a", **SLICE)
    assert (result.returncode, verbs(machine)) == (2, ["tpu-vm scp"] * 3)
    assert "the installation has failed three times on a slice that is ready" in result.stderr


@pytest.mark.parametrize("state", ["STOPPED", "HIDDEN", "UNKNOWN", "STATE_UNSPECIFIED", ""])
def test_states_that_do_not_become_ready(machine, state):
    gcloud(machine, ["CREATING", "REPAIRING", state], [])
    result = machine.run("tpu_vm.sh", "--config=a", **SLICE)
    assert (result.returncode, verbs(machine)) == (2, [])
    *waited, last = result.stderr.splitlines()
    assert waited == ["tpu_vm.sh: my-slice is CREATING", "tpu_vm.sh: my-slice is REPAIRING"]
    assert last.startswith("tpu_vm.sh: my-slice is ")


def test_a_gcloud_that_cannot_tell_later_is_asked_again(machine):
    """The first time it is a mistake, such as no login."""
    gcloud(machine, ["READY", "DENIED", "READY"], [75, 0])
    result = machine.run("tpu_vm.sh", "--config=a", **SLICE)
    assert (result.returncode, starts(machine)) == (0, 2)


def test_no_login_is_not_a_missing_slice(machine):
    gcloud(machine, ["DENIED"], [0])
    result = machine.run("tpu_vm.sh", "--config=a", **SLICE)
    assert result.returncode == 2
    assert "not logged in" in result.stderr
    assert verbs(machine) == []


def test_a_slice_needs_a_name(machine):
    gcloud(machine, [], [])
    result = machine.run("tpu_vm.sh", "--config=a", ZONE="z1")
    assert (result.returncode, machine.calls) == (2, [])
    assert "set TPU" in result.stderr


def test_tpu_vm_mounts_and_stops(machine):
    gcloud(machine, ["READY"], [0])
    shared = {"NFS": "10.0.0.2:/share", "JAX_COMPILATION_CACHE_DIR": "/mnt/work/my xla"}
    machine.run("tpu_vm.sh", "--config=a", **SLICE, **shared)
    assert remote_command(machine.calls[-1])[:2] == ["env", "JAX_COMPILATION_CACHE_DIR=/mnt/work/my xla"]
    mount = remote_command(machine.calls[-2])
    assert mount == ["env", "NFS=10.0.0.2:/share", "launch/prepare.sh", "--new", "tpu"]
    assert machine.run("tpu_vm.sh", "--stop", **SLICE).returncode == 0
    assert remote_command(machine.calls[-1]) == ["launch/background.sh", "--stop"]


def test_queued_resource(machine):
    states = [
        "MISSING",
        "WAITING_FOR_RESOURCES",
        "PROVISIONING",
        "ACTIVE",
        "SUSPENDING",
        "SUSPENDING",
        "SUSPENDED",
        "MISSING",
        "ACTIVE",
    ]
    gcloud(machine, states, [1, 0], kind="queued-resources")
    result = machine.run("queued_resource.sh", *ARGUMENTS, **SLICE, SPOT="1", CREATE_FLAGS="--valid-until-duration=12h")
    assert result.returncode == 0, result.stderr
    create, delete = "queued-resources create", "queued-resources delete"
    assert verbs(machine) == [create, *START, delete, create, *START]
    created, deleted = (next(call for call in machine.calls if verb in call) for verb in ("create", "delete"))
    assert created[5:] == [
        *("my-slice", "--node-id=my-slice", "--zone=z1", "--accelerator-type=v5litepod-16"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--valid-until-duration=12h", "--spot"),
    ]
    assert deleted[5:] == ["my-slice", "--zone=z1", "--force", "--quiet"]
    assert remote_command(machine.calls[-1])[2:] == [*ARGUMENTS, "--distributed"]
    assert result.stderr.count("is SUSPENDING") == 1


def test_an_active_request_without_its_slice_is_waited_for(machine):
    """A slice that has just been preempted, and a new one that is not ready yet."""
    states = ["ACTIVE", "SUSPENDED", "MISSING", "ACTIVE", "ACTIVE"]
    gcloud(machine, states, [0], kind="queued-resources", nodes=["PREEMPTED", "CREATING", "READY"])
    result = machine.run("queued_resource.sh", "--config=a", **SLICE)
    assert result.returncode == 0, result.stderr
    assert verbs(machine) == ["queued-resources delete", "queued-resources create", *START]
    assert "my-slice is ACTIVE, its slice PREEMPTED" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("node", "told"), [("HIDDEN", "is HIDDEN"), ("MISSING", "its slice has been MISSING")])
def test_an_active_request_whose_slice_does_not_come(machine, node, told):
    gcloud(machine, ["ACTIVE"] * 70, [], kind="queued-resources", nodes=[node] * 70)
    result = machine.run("queued_resource.sh", "--config=a", **SLICE)
    assert (result.returncode, verbs(machine)) == (2, [])
    assert told in result.stderr.splitlines()[-1]


def test_a_failed_request_is_told(machine):
    gcloud(machine, ["FAILED"], [], kind="queued-resources")
    result = machine.run("queued_resource.sh", "--config=a", **SLICE)
    assert result.returncode == 2
    assert result.stderr == (
        "queued_resource.sh: my-slice is FAILED and will not become ready; "
        "see: gcloud compute tpus queued-resources describe my-slice --zone=z1\n"
    )


@pytest.mark.parametrize(("code", "warned"), [(0, False), (1, True), (2, True)])
def test_a_missing_key_is_told_before_anything_is_made(machine, code, warned):
    gcloud(machine, ["READY"], [0])
    machine.record("ssh-add", answer=f"exit {code}")
    result = machine.run("tpu_vm.sh", *ARGUMENTS, **SLICE)
    assert result.returncode == 0, result.stderr
    assert ("ssh-add ~/.ssh/google_compute_engine" in result.stderr) == warned
    assert machine.calls[0] == ["ssh-add", "-l"]


def test_a_bucket_needs_no_mounting(machine):
    gcloud(machine, ["READY"], [0])
    cache = {"JAX_COMPILATION_CACHE_DIR": "gs://bucket/xla"}
    result = machine.run("tpu_vm.sh", "--config=a", "--workdir=gs://bucket/run", **SLICE, **cache)
    assert result.returncode == 0, result.stderr
    assert remote_command(machine.calls[-2]) == ["launch/prepare.sh", "--new", "tpu"]
    assert remote_command(machine.calls[-1])[1] == "JAX_COMPILATION_CACHE_DIR=gs://bucket/xla"
    assert "--workdir=gs://bucket/run" in remote_command(machine.calls[-1])
