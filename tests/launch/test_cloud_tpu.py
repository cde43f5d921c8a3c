"""launch/tpu_vm.sh and launch/queued_resource.sh, with a gcloud that tells of the states it is given."""

import tarfile

import pytest

from tests.launch.machine import ARGUMENTS, remote_command

SLICE = {"TPU": "my-slice", "ZONE": "z1"}


def gcloud(machine, states: list[str], codes: list[int], kind: str = "tpu-vm") -> None:
    """A gcloud whose slice has these states one after the other, and whose training ends with these codes."""
    (machine.bin / "states").write_text("\n".join(states) + "\n")
    (machine.bin / "codes").write_text("\n".join(map(str, codes)) + "\n")
    machine.record(
        "gcloud",
        answer=f"""
next() {{ sed -n 1p "$here/$1"; sed 1d "$here/$1" >"$here/$1.new"; cp "$here/$1.new" "$here/$1"; }}
case "$*" in
  *"{kind} describe"*) state=$(next states)
    if [[ $state == MISSING ]]; then echo "ERROR: NOT_FOUND: Resource was not found" >&2; exit 1; fi
    if [[ $state == DENIED ]]; then echo "ERROR: not logged in" >&2; exit 1; fi
    echo $state ;;
  *describe*) echo READY ;;
  *tpu-vm\\ scp*) cp "$5" "$here/archive.tar.gz" ;;
  *launch/worker.sh*) exit $(next codes) ;;
esac""",
    )


def verbs(machine) -> list[str]:
    return [" ".join(call[3:5]) for call in machine.calls if "describe" not in call]


def test_tpu_vm_makes_a_slice_and_trains_on_all_hosts(machine):
    gcloud(machine, ["MISSING", "CREATING", "READY"], [0])
    result = machine.run(
        "tpu_vm.sh", *ARGUMENTS, **SLICE, TYPE="v5p-16", SPOT="1", CREATE_FLAGS="--network=n --reserved"
    )
    assert result.returncode == 0, result.stderr
    create, scp, unpack, install, train = (call for call in machine.calls if "describe" not in call)
    assert create == [
        *("gcloud", "compute", "tpus", "tpu-vm", "create", "my-slice", "--zone=z1", "--accelerator-type=v5p-16"),
        *("--version=v2-alpha-tpuv5-lite", "--network=n", "--reserved", "--spot"),
    ]
    assert scp[3:5] == ["tpu-vm", "scp"]
    assert scp[6:] == ["my-slice:dynet_jax.tar.gz", "--zone=z1", "--worker=all"]
    for call in (unpack, install, train):
        assert call[:8] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-slice", "--zone=z1", "--worker=all"]
        assert len(call) == 9
    assert remote_command(install) == ["launch/setup.sh", "tpu"]
    assert remote_command(train) == ["launch/background.sh", "launch/worker.sh", *ARGUMENTS, "--distributed"]


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
    assert not list(machine.home.glob("*.tar.gz"))


def test_tpu_vm_starts_again_and_replaces_a_preempted_slice(machine):
    states = ["READY", "READY", "READY", "PREEMPTED", "PREEMPTED", "MISSING", "READY"]
    gcloud(machine, states, [75, 255, 1, 0])
    result = machine.run("tpu_vm.sh", "--config=a", **SLICE)
    assert result.returncode == 0, result.stderr
    start = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", "tpu-vm ssh"]
    assert verbs(machine) == [*start * 3, "tpu-vm delete", "tpu-vm create", *start]
    (delete,) = (call for call in machine.calls if "delete" in call)
    assert delete[5:] == ["my-slice", "--zone=z1", "--quiet"]


@pytest.mark.parametrize(("code", "restarts", "starts"), [(2, "9", 1), (75, "1", 2)])
def test_tpu_vm_gives_up(machine, code, restarts, starts):
    gcloud(machine, ["READY"] * 9, [code] * 9)
    result = machine.run("tpu_vm.sh", "--config=a", **SLICE, RESTARTS=restarts)
    assert result.returncode == code
    assert verbs(machine).count("tpu-vm scp") == starts
    assert "tpu-vm delete" not in verbs(machine)


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
    shared = {"NFS": "10.0.0.2:/share", "BUCKET": "my-data", "JAX_COMPILATION_CACHE_DIR": "/mnt/work/my xla"}
    machine.run("tpu_vm.sh", "--config=a", **SLICE, **shared)
    assert remote_command(machine.calls[-1])[:2] == ["env", "JAX_COMPILATION_CACHE_DIR=/mnt/work/my xla"]
    mount = remote_command(machine.calls[-2])
    assert mount == ["env", "NFS=10.0.0.2:/share", "BUCKET=my-data", "launch/mount.sh"]
    assert machine.run("tpu_vm.sh", "--stop", **SLICE).returncode == 0
    assert remote_command(machine.calls[-1]) == ["launch/background.sh", "--stop"]


def test_queued_resource(machine):
    states = [
        "MISSING",
        "WAITING_FOR_RESOURCES",
        "PROVISIONING",
        "ACTIVE",
        "SUSPENDED",
        "SUSPENDED",
        "MISSING",
        "ACTIVE",
    ]
    gcloud(machine, states, [1, 0], kind="queued-resources")
    result = machine.run("queued_resource.sh", *ARGUMENTS, **SLICE, SPOT="1", CREATE_FLAGS="--valid-until-duration=12h")
    assert result.returncode == 0, result.stderr
    start = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", "tpu-vm ssh"]
    create, delete = "queued-resources create", "queued-resources delete"
    assert verbs(machine) == [create, *start, delete, create, *start]
    created, deleted = (next(call for call in machine.calls if verb in call) for verb in ("create", "delete"))
    assert created[5:] == [
        *("my-slice", "--node-id=my-slice", "--zone=z1", "--accelerator-type=v5litepod-16"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--valid-until-duration=12h", "--spot"),
    ]
    assert deleted[5:] == ["my-slice", "--zone=z1", "--force", "--quiet"]
    assert remote_command(machine.calls[-1])[2:] == [*ARGUMENTS, "--distributed"]


def test_a_failed_request_is_told(machine):
    gcloud(machine, ["FAILED"], [], kind="queued-resources")
    result = machine.run("queued_resource.sh", "--config=a", **SLICE)
    assert result.returncode == 2
    assert "has failed" in result.stderr
