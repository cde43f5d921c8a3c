"""Networks compared over seeds, from the runs that `benchmarks.kept_runs` has stored.

    python -m benchmarks.kept_comparison docs/measured/cifar10/*.json --against=fix_resnet18 --png=docs/comparison.png

Runs that differ only in the seed are one row: the training loss at the end, the test error of every seed, the mean and
the standard deviation, and the mean difference of the error from that of `--against`, paired by seed, with its 95 %
interval (Student's t). The last columns say whether the network uses its coefficients: the test error with each held at
its mean over the test images, and with those of another image. Only seeds that both rows have are paired.
"""

import sys
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.arguments import make_parser, output_file
from benchmarks.kept_runs import KeptRun, read_kept
from benchmarks.kept_tables import in_common
from dynet_jax.analysis import figures
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import report_mistakes
from dynet_jax.errors import UserError
from dynet_jax.reproduce.statistics import Sample, paired, verdict

HEADER = ("network", "changed", "training loss", "test error % by seed", "mean", "difference", "verdict")
HELD = ("frozen", "shuffled")
RESOLUTION = 0.01  # points; one of 10,000 test images


class Arm(NamedTuple):
    """Runs that differ only in the seed: {seed: run}."""

    network: str
    changed: tuple[str, ...]
    runs: dict[int, KeptRun]

    @property
    def label(self) -> str:
        return ", ".join((self.network, *self.changed))

    def errors(self, seeds: list[int] | None = None, how: str = "own") -> Sample | None:
        """Returns the test errors in percent, by default of all seeds; None for a network without coefficients."""
        values = [self.runs[seed].error(how) for seed in seeds or sorted(self.runs)]
        return None if None in values else Sample(tuple(value for value in values if value is not None), RESOLUTION)


def arms_of(runs: list[KeptRun]) -> list[Arm]:
    """Returns the arms, in the order of their first runs. Raises UserError for a seed that is there twice."""
    common, arms = set(in_common(runs)), {}
    for run in runs:
        changed = tuple(change for change in run.changes if change not in common and not change.startswith("seed="))
        arm = arms.setdefault((run.network, changed), Arm(run.network, changed, {}))
        seed = int(run.option("seed") or 0)
        if seed in arm.runs:
            raise UserError(f"{run.name} and {arm.runs[seed].name} are the same run; name one of them")
        arm.runs[seed] = run
    return list(arms.values())


def reference(arms: list[Arm], network: str) -> Arm:
    """Returns the arm of a network. Raises UserError unless there is exactly one."""
    found = [arm for arm in arms if arm.network == network]
    if len(found) != 1:
        raise UserError(f"--against={network} must name one row, and there are {len(found)}")
    return found[0]


def comparison(arms: list[Arm], against: Arm) -> Table:
    """Returns a table with a row for each arm, as the module's docstring describes it."""
    rows = []
    for arm in arms:
        errors, loss = arm.errors(), fmean(run.train[-1]["loss"] for run in arm.runs.values())
        seeds = sorted(arm.runs.keys() & against.runs.keys())
        by_seed = ", ".join(f"{seed}: {value:.2f}" for seed, value in zip(sorted(arm.runs), errors.values))
        row = (arm.network, ", ".join(arm.changed), f"{loss:.3f}", by_seed, errors.text())
        if arm is against or not seeds:
            rows.append((*row, "", "", "", ""))
            continue
        difference = paired(arm.errors(seeds), against.errors(seeds))
        held = [arm.errors(how=how) for how in HELD]
        texts = ["" if sample is None else sample.text() for sample in held]
        rows.append((*row, difference.interval, _said(difference), *texts))
    return Table((*HEADER, *HELD), rows)


def _said(difference: Sample) -> str:
    if len(difference.values) < 2:
        return "one seed"
    return {"seen": "better", "not seen": "worse", "not decided": "not decided"}[verdict(difference)]


def plot(arms: list[Arm], against: Arm, file: Path, title: str) -> None:
    """Plots the test error of every seed, with the means, and the seeds of an arm joined to those of the reference."""
    figure, axes = figures.subplots(1, 1, figsize=(1.5 + 2.2 * len(arms), 4.2), layout="constrained")
    order = [against, *(arm for arm in arms if arm is not against)]
    colors = figures.colors("viridis", [index / max(1, len(against.runs)) for index in range(len(against.runs))])
    for seed, color in zip(sorted(against.runs), colors):
        points = [(x, arm.runs[seed].error()) for x, arm in enumerate(order) if seed in arm.runs]
        axes.plot(*zip(*points), marker="o", color=color, linewidth=1, alpha=0.8, label=f"seed {seed}")
    for x, arm in enumerate(order):
        axes.hlines(arm.errors().mean, x - 0.18, x + 0.18, color="black", linewidth=2)
    labels = ["\n".join((arm.network, *arm.changed)) for arm in order]
    axes.set_xticks(range(len(order)), labels, fontsize=8)
    axes.set(ylabel="test error, %", title=title, xlim=(-0.4, len(order) - 0.6))
    axes.legend(frameon=False, fontsize=8)
    figures.plain(axes)
    figures.save(figure, file)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("kept_comparison", __doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--against", required=True, metavar="NETWORK", help="with which the others are compared")
    parser.add_argument("--png", type=output_file)
    parser.add_argument("--title", default="", help="of the figure")
    options = parser.parse_args(arguments)
    runs = read_kept(options.files)
    arms = arms_of(runs)
    against = reference(arms, options.against)
    common = [change for change in in_common(runs) if not change.startswith("seed=")]
    print(f"All runs: `{' '.join(f'--config.{change}' for change in common)}`\n")
    print(comparison(arms, against).markdown())
    if options.png is not None:
        plot(arms, against, options.png, options.title)
    return 0


if __name__ == "__main__":
    sys.exit(report_mistakes("kept_comparison", main))
