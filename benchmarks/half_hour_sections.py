"""The sections of `benchmarks.gpu_half_hour`, in order of value: which programs are run, how, and for how long."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.network_forms import KERNELS
from benchmarks.throughput_cells import FAMILIES, has_pytorch

OTHER_FORMS = ("feature", "kernel", "vmapped_conv")
NETWORKS = ("dy_mobile", "dy_resnet18", "dy_resnet50", "dy_shuffle")
OF_NETWORKS = {"on_card": ("--networks=dy_*",), "rehearsed": ("--networks=dy_resnet18",)}
# A rehearsal's numbers are meaningless, and most of its time is compilation.
ON_CPU = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
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
    """Returns all sections; without PyTorch, none of it.

    folder: where they write. data: a packed dataset of CIFAR-10, or None.
    """
    measure = functools.partial(_measurement, folder, rehearse)
    sections = [
        *_correctness(measure),
        *_throughput(measure, batch, rehearse),
        measure(f"{CORRECTNESS}_networks", "correctness", "--only=networks", seconds=120, **OF_NETWORKS),
        *_layers(measure),
    ]
    return [*sections, _reproduce(folder, data, rehearse)]


def _measurement(
    folder: Path,
    rehearse: bool,
    name: str,
    module: str,
    *options: str,
    seconds: float,
    kernels: bool = False,
    on_card: Sequence[str] = (),
    rehearsed: Sequence[str] = (),
) -> Section:
    """Returns a section of one of the benchmarks, with `options` and those of the card or of the rehearsal."""
    more, environment = (rehearsed, ON_CPU) if rehearse else (on_card, {})
    command = ("-m", f"benchmarks.{module}", *options, *more, f"--jsonl={folder / name}.jsonl")
    environment = {KERNELS: "1" if kernels else "0", **environment}
    return Section(name, command, seconds * (CPU_SLOWNESS if rehearse else 1), (f"{name}.jsonl",), environment)


def _correctness(measure: Callable[..., Section]) -> Iterator[Section]:
    only = ("--only=forms", "--forms=auto")
    few = ("--size=5", "--forms=auto,kernel")
    yield measure(f"{CORRECTNESS}_forms", "correctness", "--only=forms", seconds=100, rehearsed=few)
    yield measure(f"{CORRECTNESS}_kernels", "correctness", *only, seconds=60, kernels=True, rehearsed=few[:1])
    yield measure(
        f"{CORRECTNESS}_kernels_networks", "correctness", "--only=networks", seconds=120, **OF_NETWORKS, kernels=True
    )


def _throughput(measure: Callable[..., Section], batch: int, rehearse: bool) -> Iterator[Section]:
    """Yields JAX alone first: what PyTorch takes to compile must not cost the goals. It finds its programs again."""

    batch = 4 if rehearse else batch

    def section(name: str, family: str, *options: str, batches: str, seconds: float) -> Section:
        width = 0.5 if family == "shuffle" else 0.1  # the least that can be split in two
        small = ("--small", "--rounds=1", f"--width={width}")
        options = (f"--families={family}", *options, f"--batch={batches}")
        return measure(name, "throughput", *options, seconds=seconds, on_card=("--rounds=3",), rehearsed=small)

    alone, both = ("--frameworks=jax",), ("--frameworks=jax,torch",) if has_pytorch() else None
    usual, others = "--forms=auto,pallas", f"--forms={','.join(OTHER_FORMS)}"
    training, inference = "--passes=training", "--passes=inference"
    latency = {"batches": f"1,{batch}", "seconds": 200}
    families = ",".join(FAMILIES) if not rehearse else "resnet18"
    for family in FAMILIES:
        yield section(f"{TRAINING}_{family}", family, training, usual, *alone, batches=f"{batch}", seconds=180)
    for family in FAMILIES if both else ():
        seconds = 60 * sum(subject.framework == "torch" for subject in FAMILIES[family]) + 90
        yield section(f"pytorch_{family}", family, training, usual, *both, batches=f"{batch}", seconds=seconds)
    for family in FAMILIES if not rehearse else ["resnet18"]:
        yield section(f"{TRAINING}_forms_{family}", family, training, others, *alone, batches=f"{batch}", seconds=120)
    yield section("inference", families, inference, usual, *alone, **latency)
    if both:
        yield section("pytorch_inference", families, inference, usual, *both, **latency)


def _layers(measure: Callable[..., Section]) -> Iterator[Section]:
    sizes = {
        "on_card": (f"--networks={','.join(NETWORKS)}", "--batch=64", "--dtype=bfloat16", "--once-above=1"),
        "rehearsed": ("--networks=dy_resnet18", "--batch=2", "--image-size=32", "--width=0.25", "--repeats=1"),
    }
    yield measure("layers_kernels", "dynamic_conv", "--forms=static,auto", seconds=120, kernels=True, **sizes)
    forms = ("--forms=static,kernel,feature,vmapped_conv",)
    yield measure("layers", "dynamic_conv", *forms, seconds=180, **sizes)


def _reproduce(folder: Path, data: str | None, rehearse: bool) -> Section:
    """Returns the paper's comparisons that are worth most: ResNets on CIFAR-10, or without it its Table 4 on digits."""
    if data is None:
        table = "table6" if rehearse else "table4"  # of two networks instead of four
        plan = ("--dataset=digits", "--budget=small", "--seeds=1", f"--experiments={table}")
    else:
        plan = (f"--dataset=packed:{data}", "--like=cifar10", "--budget=medium", "--networks=dy_resnet18")
    command = ("-m", "dynet_jax.cli", "reproduce", *plan, f"--out={folder / 'reproduce'}")
    command, environment = ((*command, "--config.epochs=1"), ON_CPU) if rehearse else (command, {})
    return Section("reproduce", command, None, ("reproduce/**/metrics.jsonl",), environment, keeps_time=False)
