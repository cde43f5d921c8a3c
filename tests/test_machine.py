"""The number of cores that a process may use: the system's limits, and the quota of its control groups."""

import os

import pytest

from dynet_jax import hardware, machine
from dynet_jax.inference import model

V2, V1 = "0::{}\n", "12:memory:/m\n4:cpu,cpuacct:{}\n1:name=systemd:/s\n0::/u\n"


def files(root, **content):
    for name, text in content.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def v2(root, group, quotas):
    """A machine with control groups of version 2."""
    paths = {f"sys/fs/cgroup{folder}/cpu.max": quota for folder, quota in quotas.items()}
    return files(root, **{"proc/self/cgroup": V2.format(group), **paths})


def v1(root, group, quotas, mounted="cpu,cpuacct"):
    """A machine with control groups of version 1."""
    paths = {}
    for folder, (quota, period) in quotas.items():
        paths[f"sys/fs/cgroup/{mounted}{folder}/cpu.cfs_quota_us"] = f"{quota}\n"
        paths[f"sys/fs/cgroup/{mounted}{folder}/cpu.cfs_period_us"] = f"{period}\n"
    return files(root, **{"proc/self/cgroup": V1.format(group), **paths})


@pytest.mark.parametrize(
    ("make", "group", "quotas", "expected"),
    [
        (v2, "/", {"": "200000 100000\n"}, 2.0),
        (v2, "/", {"": "50000 100000\n"}, 0.5),
        (v2, "/", {"": "max 100000\n"}, None),
        (v2, "/", {}, None),
        (v2, "/a/b", {"/a": "300000 100000\n", "/a/b": "max 100000\n"}, 3.0),  # of the group around it
        (v2, "/a/b", {"/a": "max 100000\n", "/a/b": "25000 50000\n"}, 0.5),
        (v2, "/a/b", {"/a": "100000 100000\n", "/a/b": "400000 100000\n"}, 1.0),
        (v2, "/host/only", {"": "150000 100000\n"}, 1.5),  # the container's own group is mounted
        (v2, "/../../x", {"": "150000 100000\n"}, 1.5),
        (v2, "/a", {"/a": "nonsense\n"}, None),
        (v2, "/a", {"/a": "100000 0\n"}, None),
        (v1, "/a", {"/a": (400_000, 100_000)}, 4.0),
        (v1, "/a", {"/a": (-1, 100_000)}, None),
        (v1, "/a/b", {"/a": (100_000, 50_000), "/a/b": (-1, 100_000)}, 2.0),
        (v1, "/docker/1", {"": (350_000, 100_000)}, 3.5),
        (lambda *arguments: v1(*arguments, mounted="cpu"), "/a", {"/a": (100_000, 100_000)}, 1.0),
    ],
)
def test_the_quota_of_control_groups(tmp_path, make, group, quotas, expected):
    assert machine.quota(make(tmp_path, group, quotas)) == expected


@pytest.mark.parametrize("text", ["", "\n", "no groups"])
def test_no_control_groups(tmp_path, text):
    assert machine.quota(tmp_path) is None
    assert machine.quota(files(tmp_path, **{"proc/self/cgroup": text})) is None


@pytest.mark.parametrize(("quota", "count"), [(10_000, 1), (100_000, 1), (150_000, 2), (300_000, 3), (9_900_000, 6)])
def test_cores_by_quota(tmp_path, monkeypatch, quota, count):
    """The number is the quota, rounded up, and at least one; physical cores come first."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4, 7}, raising=False)
    siblings = {core: f"{core % 4},{core % 4 + 4}" for core in range(8)}
    folders = {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": text for n, text in siblings.items()}
    root = files(v2(tmp_path, "/", {"": f"{quota} 100000\n"}), **folders)
    assert machine.cores_of_system(root) == [0, 1, 2, 3, 4, 7]
    assert machine.cores(root) == [0, 1, 2, 3, 4, 7][:count]


def test_cores_of_a_system_that_cannot_pin(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert machine.cores(tmp_path) == [0, 1, 2, 3]
    assert machine.cores(v2(tmp_path, "/", {"": "200000 100000\n"})) == [0, 1]


@pytest.mark.parametrize(("cores", "set_before", "seen"), [(3, {}, "3"), (8, {}, None), (3, {"PJRT_NPROC": "5"}, "5")])
def test_xla_is_told_of_fewer_cores(monkeypatch, cores, set_before, seen):
    """The variable is set only while XLA starts, and only if the user has not set it."""
    for name in ("PJRT_NPROC", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hardware, "cores", lambda: list(range(cores)))
    monkeypatch.setattr(hardware, "cores_of_system", lambda: list(range(8)))
    with hardware._threads_for_cores():
        assert os.environ.get("PJRT_NPROC") == seen
    assert os.environ.get("PJRT_NPROC") == set_before.get("PJRT_NPROC")


@pytest.mark.parametrize(("wanted", "given"), [(1, 1), (3, 3), (4, 3), (64, 3)])
def test_the_engine_has_no_more_threads_than_cores(monkeypatch, capsys, wanted, given):
    """They would wait for each other by spinning."""
    monkeypatch.setattr(model, "cores", lambda: [0, 1, 2])
    assert model.engine_threads(wanted) == given
    said = f"WARNING: the native engine has 3 threads instead of {wanted}: this process has the time of 3 cores\n"
    assert capsys.readouterr().err == ("" if wanted == given else said)
