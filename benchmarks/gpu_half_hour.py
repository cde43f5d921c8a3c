"""Everything that is to be measured on a GPU, in order of value, within half an hour.

    .venv-gpu/bin/python -m benchmarks.gpu_half_hour --out=half_hour.json
    python -m benchmarks.gpu_half_hour --rehearse --out=rehearsal.json

runs the benchmarks of this folder, each in a process with its own time limit:
  correctness       every form and kernel, and the dynamic networks with kernels: values, gradients, bfloat16
  training          images/s of the four families by the rule and with this package's kernels, beside their static twins
                    and bases
  pytorch           the same in alternation with the networks of timm and torchvision, if they are installed
  training_forms    the other forms
  inference         latency and images/s
  layers            every dynamic layer with the kernels and in every form
  training runs     `dynet reproduce`: Dy-ResNet18, its twin and base on --data, or the paper's Table 4 on digits, with
                    what time is left

A section that fails, crashes or takes too long is recorded, and the others go on. --out is replaced after every
section, so that a kill costs only the section under way. The same command goes on where another has ended: sections
with a record are not run again, except training runs that have been stopped, and with --retry those that did not
finish. What the sections write lies in a folder beside the file; --out has it all.

The last lines say which goals are met. The exit status is 0 if every section has finished, 1 if one has not, and 2 for
a mistake in the arguments or without a GPU. --rehearse runs the same sections on a CPU at a tiny size, to see that they
work; its numbers are meaningless, and it says "not measured" of all goals.
"""

import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.arguments import make_parser, names, output_file, positive
from benchmarks.half_hour_goals import goals, goals_table
from benchmarks.half_hour_run import FINISHED, GRACE, run_section
from benchmarks.half_hour_sections import CPU_SLOWNESS, Section, make_sections
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import report_mistakes
from dynet_jax.console import duration, say, to_json
from dynet_jax.errors import UserError
from dynet_jax.machine import source_digest
from dynet_jax.measure.failures import Deadline, Failure
from dynet_jax.measure.worker import Worker
from dynet_jax.workdir.files import lock, write_whole

LEAST = 20.0  # seconds: a section with less is not begun
STARTING = 120.0  # seconds for JAX to say what it runs on


def describe_device(rehearse: bool) -> dict[str, str]:
    """Returns what JAX runs on. Raises UserError without a GPU, unless this is a rehearsal."""
    environment = {"JAX_PLATFORMS": "cpu"} if rehearse else {}
    try:
        with Worker("benchmarks.throughput_jax", environment=environment) as worker:
            found = worker.ask({"do": "describe"}, STARTING)
    except Failure as error:
        raise UserError(f"JAX does not start: {error}") from error
    if not rehearse and found["runs_on"] != "gpu":
        raise UserError(f"there is no GPU: {found['is']}. On a CPU, --rehearse runs the same sections at a tiny size")
    return found | ({} if rehearse else {"card": _card()})


def _card() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


class HalfHour:
    """The results so far, and the file that has them."""

    def __init__(self, file: Path, facts: dict):
        self.file, self.results = file, {**facts, "sections": {}}
        if file.exists():
            self.results["sections"] = _earlier(file, facts)
        self.write()

    @property
    def sections(self) -> dict[str, dict]:
        return self.results["sections"]

    def write(self) -> None:
        self.results["goals"] = goals(self.sections, self.results["rehearsal"])
        write_whole(self.file, to_json(self.results, indent=1))

    def has(self, name: str, retry: bool) -> bool:
        """Returns whether a section is not to be run again."""
        status = self.sections.get(name, {}).get("status")
        return status == FINISHED if retry else status not in (None, "stopped")

    def add(self, name: str, record: dict) -> None:
        self.sections[name] = {**record, "source": source_digest()}
        self.write()


def _earlier(file: Path, facts: dict) -> dict[str, dict]:
    """Returns the sections of a file. Raises UserError if it is another one, or of another machine."""
    try:
        found = {"data": None, **json.loads(file.read_text())}  # files of before it was compared have none
        sections, before = found["sections"], {key: found[key] for key in facts}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no file of benchmarks.gpu_half_hour; name another --out") from error
    for key, value in facts.items():
        if before[key] != value:
            raise UserError(f"{file} was made with {key} {before[key]}, and this is {value}; name another --out")
    return sections


def run(options: argparse.Namespace, half_hour: HalfHour, folder: Path, held: tuple[int, ...]) -> None:
    """Runs what has not been run, while there is time."""
    deadline = Deadline(60 * options.minutes)
    sections = make_sections(folder, options.batch, options.data, options.rehearse)
    waiting = [
        section
        for section in sections
        if section.name.startswith(tuple(options.only)) and not half_hour.has(section.name, options.retry)
    ]
    say(f"{len(waiting)} of {len(sections)} sections to run; the others have been run or are not asked for")
    for number, section in enumerate(waiting):
        seconds = seconds_for(waiting[number:], deadline.left)
        if seconds < LEAST:
            say(f"[{number + 1}/{len(waiting)}] {section.name}: no time is left")
            continue
        left = min(deadline.left, sum(later.seconds or seconds for later in waiting[number:]))
        until = time.strftime("%H:%M", time.localtime(time.time() + left))
        say(
            f"[{number + 1}/{len(waiting)}] {section.name}: at most {duration(seconds)}; "
            f"all of them at most {duration(left)} more, until {until}"
        )
        record = run_section(section, seconds, folder, held)
        half_hour.add(section.name, record)
        say(f"  {record['status']} after {duration(record['seconds'])}, {len(record['rows'])} rows")


def seconds_for(waiting: list[Section], left: float) -> float:
    """Returns the time limit of the first of the sections that wait, with `left` seconds for all."""
    left -= GRACE
    first = waiting[0]
    if first.seconds is not None:
        return min(first.seconds, left)
    return left / sum(section.seconds is None for section in waiting)


def summary(half_hour: HalfHour, names_of_all: list[str]) -> str:
    """Returns tables of the sections and of the goals."""
    rows = []
    for name in names_of_all:
        record = half_hour.sections.get(name)
        facts = (record["status"], duration(record["seconds"]), len(record["rows"])) if record else ("not run", "", "")
        rows.append((name, *map(str, facts)))
    sections = Table(("section", "status", "time", "rows"), rows).markdown()
    return f"{sections}\n\n{goals_table(half_hour.results['goals']).markdown()}"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser("gpu_half_hour", __doc__)
    add = parser.add_argument
    kinds = sorted({section.name.partition("_")[0] for section in make_sections(Path(), 1, None, False)})
    add("--out", type=output_file, required=True, metavar="FILE.json", help="the results; an existing one is completed")
    add("--minutes", type=positive(float), help="for all sections (default: 30; 150 with --rehearse)")
    add("--batch", type=positive(int), default=256, help="images of a step (default: 256)")
    add("--data", metavar="DIR", help="CIFAR-10 as `dynet prepare folder:PATH` packs it")
    add(
        "--only", type=names(kinds), default=kinds, metavar="KIND,...", help=f"sections of these, of {', '.join(kinds)}"
    )
    add("--retry", action="store_true", help="run sections again that did not finish")
    add("--rehearse", action="store_true", help="on a CPU, at a tiny size")
    options = parser.parse_args(argv)
    options.minutes = options.minutes or (30.0 if not options.rehearse else 30.0 * CPU_SLOWNESS)
    if options.data is not None and not Path(options.data, "dataset.json").is_file():
        parser.error(f"argument --data: {options.data} is not a packed dataset: it has no dataset.json")
    options.data = options.data and str(Path(options.data).resolve())
    return options


@contextlib.contextmanager
def _ending_by_signal() -> Iterator[None]:
    """SIGTERM ends the section under way, and this process."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    device = describe_device(options.rehearse)
    print(" ".join(device.values()), flush=True)
    folder = options.out.resolve().with_suffix(".parts")
    with (
        lock(folder, f"another run is using {options.out}, or a section that it has left behind") as held,
        _ending_by_signal(),
    ):
        facts = {"rehearsal": options.rehearse, "batch": options.batch, "data": options.data, "device": device}
        half_hour = HalfHour(options.out, facts)
        run(options, half_hour, folder, (held.fileno(),))
    sections = [section.name for section in make_sections(folder, options.batch, options.data, options.rehearse)]
    print(summary(half_hour, sections))
    return 0 if all(half_hour.has(name, retry=True) for name in sections) else 1


if __name__ == "__main__":
    sys.exit(report_mistakes("gpu_half_hour", main))
