"""Images per second and core of this project's input pipeline, tf.data and Pillow, on the same files.

Every loader has its own process, pinned to the same core before it imports anything, so that its threads share that
core and the figure is per core. The loaders alternate (A B C, C B A, ...) and wait while another one works, so that a
drift of the machine's speed affects all of them. A run reads `--images` images; the number read ahead is the same
before and after. Files come from the page cache. The table has medians of `--repeats` runs, by elapsed time and by the
processor time of the loader's process, which other programs on the machine disturb less.
"""

import argparse
import functools
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from benchmarks.arguments import make_parser, names, output_file, positive
from benchmarks.console import table_head, table_row, three_digits
from benchmarks.input_loaders import LOADERS
from dynet_jax.console import say
from dynet_jax.data.files import list_images
from dynet_jax.measure.turns import Turns
from dynet_jax.measure.worker import Worker, Workers

EXAMPLE = "example: python -m benchmarks.input_pipeline ~/imagenet/val --repeats 9 --markdown table.md"
BASELINES = ("decode and crop", "tf.data")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    lines = list(table(options, measure(options)))
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = make_parser("input_pipeline", __doc__, EXAMPLE)
    parser.add_argument("folder", type=Path, help="of JPEG files, at any depth")
    parser.add_argument("--loaders", type=names(LOADERS), default=list(LOADERS), help=f"some of: {', '.join(LOADERS)}")
    parser.add_argument("--image-size", type=positive(int), default=224)
    parser.add_argument("--batch", type=positive(int), default=32)
    parser.add_argument("--images", type=positive(int), default=640, help="read by each loader in each run")
    parser.add_argument("--repeats", type=positive(int), default=7)
    parser.add_argument("--core", type=int, help="the core that all share; by default the last one")
    parser.add_argument("--markdown", type=output_file, metavar="FILE", help="write the table there, too")
    options = parser.parse_args(arguments)
    if not hasattr(os, "sched_setaffinity"):
        parser.error("processes can be pinned to a core on Linux only")
    cores = os.sched_getaffinity(0)
    options.core = max(cores) if options.core is None else options.core
    if options.core not in cores:
        parser.error(f"argument --core: there is no core {options.core}; choose from {', '.join(map(str, cores))}")
    if not options.folder.is_dir() or not list_images(options.folder):
        parser.error(f"argument folder: no images below {options.folder}")
    return options


class Rates(NamedTuple):
    """Images per second in each run, by elapsed time and by processor time."""

    passed: list[float]
    used: list[float]


def measure(options: argparse.Namespace) -> dict[str, Rates]:
    """Returns the rates by loader; a loader that does not work here has no runs."""
    batches = math.ceil(options.images / options.batch)
    images, used = batches * options.batch, {name: [] for name in options.loaders}

    def run(name: str) -> float:
        seconds, of_processor = workers.ask(name, {"batches": batches})
        used[name].append(of_processor)
        return seconds

    turns, samples = Turns(say=say), {name: functools.partial(run, name) for name in options.loaders}
    with Workers(lambda name: _start(name, options)) as workers:
        said = ["warmed up", *(f"run {number + 1} of {options.repeats}" for number in range(options.repeats))]
        turns.take(samples, len(said), after=lambda number: say(said[number]))
    found = {name: (turns.times(name)[1:], used[name][1:]) for name in options.loaders}
    return {name: Rates(*([images / seconds for seconds in kind] for kind in both)) for name, both in found.items()}


def _start(name: str, options: argparse.Namespace) -> Worker:
    arguments = [name, str(options.folder), str(options.batch), str(options.image_size)]
    quiet = subprocess.DEVNULL if name.startswith("tf.data") else None  # it has much to say when it starts
    return Worker("benchmarks.input_loaders", arguments, cores=[options.core], stderr=quiet)


def table(options: argparse.Namespace, rates: dict[str, Rates]) -> Iterator[str]:
    """Returns lines of Markdown with a row per loader."""
    packages = ("grain", "opencv-python-headless", "turbojpeg", "pillow", "tensorflow-cpu")
    yield ", ".join(f"{name} {_version(name)}" for name in packages)
    files = len(list_images(options.folder))
    yield f"{platform.machine()}, one core, load average {os.getloadavg()[0]:.1f}, {files} files"
    yield ""
    numbers = ["images/s", "lowest to highest", "images per second of the processor"]
    numbers += [f"of {baseline}" for baseline in BASELINES]
    yield from table_head("loader", numbers=numbers)
    for name, (passed, used) in rates.items():
        if not passed:
            yield table_row(name, "failed", "-", "-", *["-"] * len(BASELINES))
            continue
        median = statistics.median(used)
        extremes = f"{three_digits(min(passed))} to {three_digits(max(passed))}"
        shares = (_share(used, rates[baseline].used) if baseline in rates else "-" for baseline in BASELINES)
        yield table_row(name, three_digits(statistics.median(passed)), extremes, three_digits(median), *shares)


def _share(used: list[float], baseline: list[float]) -> str:
    """Returns the median over the rounds of one rate as a share of another."""
    shares = [value / other for value, other in zip(used, baseline)]
    return f"{100 * statistics.median(shares):.0f} %" if shares else "-"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(none)"


if __name__ == "__main__":
    main()
