"""The sections of `benchmarks.gpu_half_hour`, in order of value: which programs are run, how, and for how long."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.network_forms import KERNELS
from benchmarks.throughput_cells import FAMILIES

OTHER_FORMS = ("feature", "kernel", "vmapped_conv")
CPU_SLOWNESS = 5  # times as long as on the machine of a GPU, which has more cores to compile with
CORRECTNESS, TRAINING = "correctness", "training"  # what the names of sections with goals begin with


class Section(NamedTuple):
    """One process.

    Attributes:
      name: of the section, and of its files.
      command: the arguments of Python.
      seconds: that it may take; None for an equal part of what is left with the others of that kind.
      results: patterns of the JSON-lines files that it writes, below the folder of the sections.
      environment: additional variables.
      keeps_time: whether it takes --limit=SECONDS. Others get SIGTERM when their time is over, and save.
    """

    name: str
    command: tuple[str, ...]
    seconds: float | None
    results: tuple[str, ...]
    environment: Mapping[str, str] = {}
    keeps_time: bool = True


def make_sections(folder: Path, batch: int, data: str | None, rehearse: bool) -> list[Section]:
    """Returns all sections. folder: where they write. data: a packed dataset of CIFAR-10, or None."""
    sections = [*_measurements(folder, batch, rehearse), *_training_runs(folder, data, rehearse)]
    return [_on_cpu(section) for section in sections] if rehearse else sections


def _on_cpu(section: Section) -> Section:
    environment = {**section.environment, "JAX_PLATFORMS": "cpu"}
    return section._replace(environment=environment, seconds=section.seconds and CPU_SLOWNESS * section.seconds)


def _measurements(folder: Path, batch: int, rehearse: bool) -> Iterator[Section]:
    def section(name: str, module: str, *options: str, seconds: float, kernels: bool = False) -> Section:
        command = ("-m", f"benchmarks.{module}", *options, f"--jsonl={folder / name}.jsonl")
        return Section(name, command, seconds, (f"{name}.jsonl",), {KERNELS: "1" if kernels else "0"})

    forms = ("--only=forms", "--size=5", "--forms=auto,kernel") if rehearse else ("--only=forms",)
    of_kernels = forms[:2] if rehearse else forms
    networks = ("--only=networks", "--networks=dy_mobile" if rehearse else "--networks=dy_*")
    yield section(f"{CORRECTNESS}_forms", "correctness", *forms, seconds=100)
    yield section(f"{CORRECTNESS}_kernels", "correctness", *of_kernels, "--forms=auto", seconds=60, kernels=True)
    yield section(f"{CORRECTNESS}_kernels_networks", "correctness", *networks, seconds=120, kernels=True)

    size = ("--rounds=1",) if rehearse else (f"--batch={batch}", "--rounds=3")
    usual = "--forms=pallas" if rehearse else "--forms=auto,pallas"
    for family in FAMILIES:
        options = (f"--families={family}", "--passes=training", usual, *size, *_small(family, rehearse))
        yield section(f"{TRAINING}_{family}", "throughput", *options, seconds=210)
    for family in ["mobile"] if rehearse else FAMILIES:
        options = (f"--families={family}", "--passes=training", f"--forms={','.join(OTHER_FORMS)}", "--frameworks=jax")
        options = (*options, *size, *_small(family, rehearse))
        yield section(f"{TRAINING}_forms_{family}", "throughput", *options, seconds=120)
    families = ("--families=mobile", *_small("mobile", rehearse)) if rehearse else (f"--families={','.join(FAMILIES)}",)
    size = ("--batch=1,4", "--rounds=1") if rehearse else (f"--batch=1,{batch}", "--rounds=3")
    options = (*families, "--passes=inference", usual, *size)
    yield section("inference", "throughput", *options, seconds=240)
    yield section(f"{CORRECTNESS}_networks", "correctness", *networks, seconds=120)
    layers = "--networks=dy_mobile" if rehearse else "--networks=dy_mobile,dy_resnet18,dy_resnet50,dy_shuffle"
    size = ("--batch=2", "--image-size=32", "--width=0.25", "--forms=static,kernel", "--repeats=1")
    if not rehearse:
        size = ("--batch=64", "--forms=all", "--dtype=bfloat16", "--repeats=5", "--once-above=1")
    yield section("layers", "dynamic_conv", layers, *size, seconds=180)


def _small(family: str, rehearse: bool) -> tuple[str, ...]:
    # The shuffling networks cannot be split in two below half the width.
    return ("--small", f"--width={0.5 if family == 'shuffle' else 0.1}") if rehearse else ()


def _training_runs(folder: Path, data: str | None, rehearse: bool) -> Iterator[Section]:
    """Yields runs of Dy-ResNet18 and Fix-ResNet18 on CIFAR-10, or without it the paper's Table 4 on digits."""
    if data is None:
        out = folder / "reproduce"
        command = ("-m", "dynet_jax.cli", "reproduce", "--dataset=digits", "--budget=small", "--experiments=table4")
        command = (*command, "--seeds=1", f"--out={out}", *(["--config.epochs=1"] if rehearse else []))
        yield Section("reproduce", command, None, ("reproduce/**/metrics.jsonl",), keeps_time=False)
        return
    for network in ("dy_resnet18", "fix_resnet18"):
        workdir = folder / f"cifar10_{network}"
        command = ("train.py", f"--config={network}:cifar10", f"--config.data.name=packed:{data}")
        command = (*command, f"--workdir={workdir}", *(["--config.epochs=1"] if rehearse else []))
        yield Section(workdir.name, command, None, (f"{workdir.name}/metrics.jsonl",), keeps_time=False)
