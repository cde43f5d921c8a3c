"""The devices and cores of a process, and the messages if they are not the intended ones."""

import importlib.util
import os
import subprocess
import sys
import types

import jax
import ml_collections
import pytest

from dynet_jax import hardware, hosts
from dynet_jax.errors import UserError
from dynet_jax.train import startup

CPU, GPU = (types.SimpleNamespace(platform=name, device_kind=name, process_index=0) for name in ("cpu", "gpu"))
FAILED = "Unable to initialize backend '{}': ABORTED: it is in use by process 12 (you may need to uninstall it)"


@pytest.fixture
def computer(monkeypatch, tmp_path):
    """Sets up a machine: its device files, the drivers that JAX has, what JAX answers, JAX_PLATFORMS."""

    def set_up(nodes=(), drivers=(), answers=([CPU],), asked=""):
        for node in nodes:
            file = tmp_path / node
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        answers = iter(answers)

        def devices(platform=None):
            if platform is not None:
                raise RuntimeError(f"Backend '{platform}' failed to initialize: it is in use by process 12")
            if isinstance(answer := next(answers), Exception):
                raise answer
            return answer

        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in drivers or find(name))
        monkeypatch.setattr(hardware, "ROOT", tmp_path)
        monkeypatch.setattr(jax, "devices", devices)
        monkeypatch.setattr(hardware, "_asked", lambda: asked.split(",") if asked else [])
        hardware._warn_once.cache_clear()

    for accelerator in hardware.ACCELERATORS:
        monkeypatch.delenv(accelerator.hidden_by, raising=False)
    return set_up


TPU = {"nodes": ["dev/accel0"], "drivers": ["libtpu"]}
HELD = [
    pytest.param(TPU, "a TPU", id="TPU v4"),
    pytest.param({"nodes": ["dev/vfio/0"], "drivers": ["libtpu"]}, "a TPU", id="TPU v5e"),
    pytest.param({"nodes": ["dev/nvidia1"], "drivers": ["jax_cuda12_plugin"]}, "an NVIDIA GPU", id="CUDA"),
    pytest.param({"nodes": ["dev/kfd"], "drivers": ["jax_rocm7_plugin"]}, "an AMD GPU", id="ROCm"),
]


@pytest.mark.parametrize(("there", "name"), HELD)
def test_an_accelerator_that_another_process_holds(computer, capsys, there, name):
    """Long commands refuse to run; short ones continue on the CPU, with one warning."""
    computer(**there, answers=[[CPU]] * 3)
    with pytest.raises(UserError) as refused:
        hardware.devices()
    line = str(refused.value)
    assert line.startswith(f"this machine has {name}, but JAX cannot use it (Backend '")
    assert line.endswith(
        "failed to initialize: it is in use by process 12); end the process that holds it, if there is one, or set "
        "JAX_PLATFORMS=cpu to continue on the CPU"
    )
    assert [hardware.devices(or_cpu=True), hardware.devices(or_cpu=True)] == [[CPU], [CPU]]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"WARNING: this machine has {name}, but")
    assert line.endswith("the CPU is used. JAX_PLATFORMS=cpu states that this is intended")


@pytest.mark.parametrize(
    "there",
    [
        {},
        {**TPU, "asked": "cpu"},
        {**TPU, "asked": "cpu,tpu"},
        {"nodes": ["dev/nvidia0"]},  # JAX is for CPUs alone, and says itself that there is a GPU
        {"nodes": ["dev/vfio/vfio", "dev/accel/accel0", "dev/nvidiactl"], "drivers": ["libtpu", "jax_cuda13_plugin"]},
        {"drivers": ["libtpu"]},  # for `dynet compile-tpu`
        {**TPU, "answers": [[GPU]]},
    ],
    ids=["none", "the CPU is asked for", "the CPU first", "no driver", "other devices", "no device", "it is used"],
)
def test_devices_that_are_meant(computer, capsys, there):
    computer(**there)
    assert hardware.devices() in ([CPU], [GPU])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["", "-1"])
def test_an_accelerator_that_is_hidden(computer, monkeypatch, capsys, value):
    """JAX fails loudly for it once, and then has the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    error = RuntimeError(FAILED.format("cuda"))
    computer(["dev/nvidia0"], ["jax_cuda13_plugin"], [error, [CPU]])
    assert hardware.devices() == [CPU]
    computer(["dev/nvidia0"], ["jax_cuda13_plugin"], [[CPU]])
    assert hardware.devices() == [CPU]
    assert capsys.readouterr().err == ""


def test_a_driver_that_fails(computer, capsys):
    """The second time JAX is asked it answers with the CPU, as if nothing were wrong."""
    error = RuntimeError(FAILED.format("cuda"))
    computer(answers=[error, [CPU], error, [CPU]])
    with pytest.raises(UserError, match=r"JAX cannot start \(Unable .* 'cuda': .* process 12\); .* JAX_PLATFORMS=cpu"):
        hardware.devices()
    assert hardware.devices(or_cpu=True) == [CPU]
    assert "the CPU is used" in capsys.readouterr().err


def test_a_cpu_that_fails(computer):
    computer(answers=[RuntimeError(FAILED.format("cpu"))])
    with pytest.raises(UserError, match="JAX cannot start: Unable to initialize backend 'cpu': ABORTED"):
        hardware.devices(or_cpu=True)


@pytest.mark.parametrize(
    ("asked", "answer", "message"),
    [
        ("cuda", AssertionError(), "JAX_PLATFORMS=cuda asks for what JAX cannot use here; check that"),
        ("cuda,cpu", [CPU], "JAX_PLATFORMS=cuda,cpu asks for what JAX cannot use here; check that"),
        (
            "tpu",
            RuntimeError(FAILED.format("tpu")),
            r"here \(Unable to initialize backend 'tpu': .* process 12\); check",
        ),
        ("tpuu", RuntimeError("Backend 'tpuu' is not in the list"), "JAX_PLATFORMS has no 'tpuu'; did you mean tpu"),
        ("CPU", RuntimeError("Backend 'CPU' is not in the list"), "JAX_PLATFORMS has no 'CPU'; did you mean cpu"),
        (" cpu", RuntimeError("Backend ' cpu' is not in the list"), "JAX_PLATFORMS has no ' cpu'; did you mean cpu"),
        ("gpu", RuntimeError("Backend 'rocm' is not in the list"), "name yours, as JAX_PLATFORMS=cuda"),
    ],
)
def test_what_is_asked_for_and_not_there(computer, asked, answer, message):
    """Every command rejects it, because the user has stated what they want."""
    computer(asked=asked, answers=[answer])
    with pytest.raises(UserError, match=message):
        hardware.devices(or_cpu=True)


@pytest.mark.slow
@pytest.mark.parametrize("platforms", ["cuda", "tpu", "tpux"])
@pytest.mark.parametrize(
    "command",
    [
        ["train.py", "--config=configs/dy_mobile.py:digits", "--workdir={}"],
        ["-m", "dynet_jax.cli", "summary", "dy_mobile", "--width=0.1"],
        ["-m", "dynet_jax.cli", "reproduce", "--dataset=digits", "--out={}"],
    ],
    ids=["train", "summary", "reproduce"],
)
def test_commands_say_it_in_one_line(tmp_path, platforms, command):
    command = [word.format(tmp_path / "out") for word in command]
    environment = {**os.environ, "JAX_PLATFORMS": platforms}
    result = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "JAX_PLATFORMS" in result.stderr


FALLS_BACK = """
import pathlib, sys
from dynet_jax import hardware
from dynet_jax.cli import train_main
hardware.ROOT = pathlib.Path(sys.argv[1])
sys.exit(train_main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["", "cpu"])
def test_jax_falls_back_and_training_does_not(tmp_path, asked):
    """The test uses JAX itself, which finds a driver that cannot be opened."""
    driver = "def configure_library_path(): pass\ndef get_library_path(): return '/nowhere/libtpu.so'\n"
    for path, text in (("libtpu/__init__.py", driver), ("root/dev/accel0", "")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    environment = {**os.environ, "JAX_PLATFORMS": asked, "PYTHONPATH": f"{tmp_path}{os.pathsep}."}
    # One that is let through ends by the next mistake.
    options = ["--config=configs/dy_mobile.py:digits", "--config.epochs=0.1", f"--workdir={tmp_path / 'out'}"]
    command = [sys.executable, "-c", FALLS_BACK, str(tmp_path / "root"), *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("train.py: warmup_epochs" if asked else "train.py: this machine has a TPU, but JAX cannot")
    assert asked or "'tpu' failed to initialize: INTERNAL: Failed to open /nowhere/libtpu.so" in line


def test_training_asks_first(computer, tmp_path):
    """It does so before anything is written, and before it waits for any host."""
    computer(**TPU)
    with pytest.raises(UserError, match="JAX_PLATFORMS=cpu to continue on the CPU"):
        startup.start_up(ml_collections.ConfigDict(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def host_devices(*kinds):
    return [
        types.SimpleNamespace(process_index=host, platform=kind[:3], device_kind=kind)
        for host, (kind, count) in enumerate(kinds)
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("of_hosts", "message"),
    [
        ([("gpu A", 8), ("gpu A", 4)], "8 of gpu, gpu A on host 0, 4 of gpu, gpu A on host 1"),
        ([("gpu A", 8), ("gpu B", 8)], "8 of gpu, gpu A on host 0, 8 of gpu, gpu B on host 1"),
        ([("tpu", 4), ("tpu", 4), ("cpu", 4)], "4 of tpu, tpu on host 0, 4 of cpu, cpu on host 2"),
        ([("gpu A", 8), ("gpu A", 0)], "8 of gpu, gpu A on host 0, nothing on host 1"),
    ],
)
def test_hosts_with_other_devices(monkeypatch, of_hosts, message):
    monkeypatch.setattr(jax, "process_count", lambda: len(of_hosts))
    hosts.same_devices(host_devices(*of_hosts[:1] * len(of_hosts)))
    with pytest.raises(UserError, match=f"number or kind of devices is not the same on all hosts: {message}"):
        hosts.same_devices(host_devices(*of_hosts))


@pytest.mark.parametrize(
    ("there", "platform"),
    [({}, "cpu"), (TPU, "tpu"), ({**TPU, "asked": "cpu"}, "cpu"), ({"asked": "cuda,cpu"}, "cuda")],
)
def test_what_a_host_computes_with(computer, there, platform):
    """The same, whether it is named or found."""
    computer(**there)
    assert hardware.description() == f"JAX {jax.__version__}\n{platform}"
