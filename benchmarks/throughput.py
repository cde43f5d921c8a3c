"""Images per second of training and inference, beside the static twins and beside PyTorch, in turns in one run.

    python -m benchmarks.throughput --families mobile --batch 64,256 --limit 570 --jsonl throughput.jsonl
    python -m benchmarks.throughput --small

JAX: the training step of the files in configs/ (bfloat16, BatchNorm over 64 images, the sums of the metrics), and the
step of `dynet predict`. PyTorch: the same batch and size, channels last, bfloat16 autocast, torch.compile, label
smoothing, fused SGD with momentum; timm's networks, and Dy-mobile's frame around timm's CondConv layers
(condconv_mobile) or plain ones. Images are uint8 on the device in both; no input pipeline, one device.

Each framework has a process. Both compile one pass of one family at one batch, then take turns: every network in
one process, every network in the other, --rounds times. A rate is the median of the rounds; a ratio the median of the
rounds' ratios: to the static twin and to the base network in the same framework, and to PyTorch's base network.
--small is a check that the command works, on any machine: its numbers mean nothing.
"""

import argparse
import importlib.util
import itertools
import statistics
import sys
from pathlib import Path

from benchmarks.console import progress, table_head, table_row, three_digits
from benchmarks.dynamic_conv import batches, names, positive
from benchmarks.records import Deadline, Records
from benchmarks.throughput_cells import FAMILIES, FRAMEWORKS, PASSES, Cell, frame
from benchmarks.worker import Ended, Worker

SMALL = {"batch": [4], "image_size": 32, "width": 0.1, "rounds": 2, "seconds": 0.05, "compile": "none"}
SMALL["families"] = ["mobile"]  # two minutes on a laptop; the others take the same way
SMALL["dtype"] = "float32"  # CPUs without bfloat16 emulate it, slowly
USUAL = {"batch": [64, 256], "image_size": 224, "width": 1.0, "rounds": 5, "seconds": 1.0, "compile": "default"}
USUAL |= {"families": list(FAMILIES), "dtype": "bfloat16"}


class Bench:
    """The processes, and what they have measured: seconds per step of every round, or what went wrong."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.deadline, self.records = options, Deadline(options.limit), Records(options.jsonl)
        self.seconds: dict[Cell, list[float]] = {}
        self.errors: dict[Cell, str] = {}
        self._workers: dict[str, Worker] = {}

    def ask(self, framework: str, **question) -> dict:
        """A worker that has ended is started again the next time. Raises Ended."""
        if framework not in self._workers:
            self._workers[framework] = Worker(f"benchmarks.throughput_{framework}", {})
        try:
            return self._workers[framework].ask(question, self.deadline.left)
        except Ended:
            self._workers.pop(framework).close()
            raise

    def start(self) -> None:
        """Print what each framework is; one that does not start (a broken installation) is left out."""
        for framework in list(self.options.frameworks):
            try:
                print(self.ask(framework, do="describe")["is"], flush=True)
            except Ended as error:
                progress(f"{framework} does not start: {error}; its rows are left out")
                self.options.frameworks.remove(framework)

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def measure(self, cells: list[Cell]) -> None:
        """One pass of one family at one batch."""
        ready = [cell for framework in self.options.frameworks for cell in self._prepare(framework, cells)]
        for round_ in range(self.options.rounds):
            if self.deadline.passed:
                break
            progress(f"round {round_ + 1} of {self.options.rounds}")
            for cell in ready:
                if cell not in self.errors:
                    self._time(cell)
        for cell in cells:
            self.records.add(**self.row(cell))

    def _prepare(self, framework: str, cells: list[Cell]) -> list[Cell]:
        cells = [cell for cell in cells if cell.subject.framework == framework]
        progress(
            f"compiling {len(cells)} programs of {framework}, after {self.options.limit - self.deadline.left:.0f} s"
        )
        try:
            answer = self.ask(framework, do="prepare", cells=[self._question(cell) for cell in cells])
        except Ended as error:
            answer = {str(cell): str(error) for cell in cells}
        for cell in cells:
            if isinstance(answer[str(cell)], str):
                self.errors[cell] = answer[str(cell)]
                progress(f"  {cell}: {answer[str(cell)]}")
        return [cell for cell in cells if cell not in self.errors]

    def _time(self, cell: Cell) -> None:
        try:
            answer = self.ask(cell.subject.framework, do="time", name=str(cell), seconds=self.options.seconds)
        except (Ended, KeyError) as error:
            answer = {"error": str(error)}
        if "error" in answer:
            self.errors[cell] = answer["error"]
        else:
            self.seconds.setdefault(cell, []).append(answer["seconds"])

    def _question(self, cell: Cell) -> dict:
        options = self.options
        question = {key: getattr(options, key) for key in ("image_size", "width", "dtype", "small", "compile")}
        question |= {"name": str(cell), "network": cell.subject.network, "batch": cell.batch, "pass": cell.which}
        return question | ({"frame": frame(options.width)} if cell.subject.framework == "torch" else {})

    def row(self, cell: Cell) -> dict:
        subject = cell.subject
        row = {"network": subject.network, "framework": subject.framework, "batch": cell.batch, "pass": cell.which}
        if cell not in self.seconds:
            return row | {"error": self.errors.get(cell, "no time was left")}
        rates = [cell.batch / seconds for seconds in self.seconds[cell]]
        row |= {"images_per_s": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}
        others = {"twin": cell.beside(subject.twin), "base": cell.beside(subject.base)}
        others["pytorch"] = cell.beside(subject.base, "torch")
        ratios = {f"of_{name}": self._ratio(cell, other) for name, other in others.items() if other != cell}
        return row | {name: ratio for name, ratio in ratios.items() if ratio is not None}

    def _ratio(self, cell: Cell, other: Cell) -> float | None:
        """Of rates: above 1 is faster than the other."""
        ratios = [b / a for a, b in zip(self.seconds[cell], self.seconds.get(other, []))]
        return statistics.median(ratios) if ratios else None


def table(rows: list[dict]) -> list[str]:
    """Lines of Markdown."""
    numbers = ["images/s", "lowest to highest", "of its static twin", "of the base network", "of PyTorch's base"]
    lines = list(table_head("network", "framework", "batch", "pass", numbers=numbers))
    for row in rows:
        words = (row["network"], row["framework"], str(row["batch"]), row["pass"])
        if "error" in row:
            lines.append(table_row(*words, "failed", *[""] * 4))
            continue
        ratios = [row.get(f"of_{name}") for name in ("twin", "base", "pytorch")]
        extremes = f"{three_digits(row['lowest'])} to {three_digits(row['highest'])}"
        cells = [f"{ratio:.2f}" if ratio is not None else "" for ratio in ratios]
        lines.append(table_row(*words, three_digits(row["images_per_s"]), extremes, *cells))
    return lines


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    bench = Bench(options)
    try:
        bench.start()
        for batch, family, which in itertools.product(options.batch, options.families, options.passes):
            subjects = [subject for subject in FAMILIES[family] if subject.framework in options.frameworks]
            bench.measure([Cell(subject, batch, which) for subject in subjects])
    finally:
        bench.close()
    lines = ["", *table(bench.records.rows)]
    print("\n".join(lines), flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines[1:]) + "\n")
    return 1 if not bench.records.rows or any("error" in row for row in bench.records.rows) else 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--families", type=names(FAMILIES), help=f"default: {','.join(FAMILIES)}; mobile with --small")
    add("--frameworks", type=names(FRAMEWORKS), default=list(FRAMEWORKS), help="default: jax,torch")
    add("--passes", type=names(PASSES), default=list(PASSES), help="default: training,inference")
    add("--batch", type=batches, help="images, one number or several (default: 64,256)")
    add("--image-size", type=positive(int), help="default: 224")
    add("--width", type=positive(float), help="of our networks and of the frame (default: 1.0)")
    add("--dtype", choices=("bfloat16", "float32"), help="default: bfloat16")
    add("--rounds", type=positive(int), help="default: 5")
    add("--seconds", type=positive(float), help="of each network in each round (default: 1)")
    add("--compile", help="torch.compile's mode, or none (default: default)")
    add("--small", action="store_true", help="at a tiny size, to see that it works")
    add("--limit", type=positive(float), default=86400.0, help="seconds for the whole command")
    add("--jsonl", type=Path, metavar="FILE", help="write every rate there as soon as it is known, as JSON lines")
    add("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args(argv)
    for key, value in (SMALL if options.small else USUAL).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    missing = [package for package in ("torch", "timm") if importlib.util.find_spec(package) is None]
    if missing and "torch" in options.frameworks:
        progress(f"no {' and no '.join(missing)}: PyTorch's rows are left out (`make env-torch` installs it)")
        options.frameworks = [name for name in options.frameworks if name != "torch"]
        if not options.frameworks:
            parser.error("--frameworks: nothing is left to time")
    return options


if __name__ == "__main__":
    sys.exit(main())
