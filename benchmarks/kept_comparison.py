"""Networks compared over seeds, from the runs that `benchmarks.kept_runs` has stored.

    python -m benchmarks.kept_comparison docs/measured/cifar10/c32*.json --png=docs/comparison.png

Runs that differ only in the seed are one row: the training loss at the end, the test error of every seed, the mean and
the standard deviation, and the mean difference of the error from that of the network's static twin, or of `--against`,
paired by seed, with its 95 % interval (Student's t). The last columns say whether the network uses its coefficients:
the test error with each held at its mean over the test images, and with those of another image. Only seeds that both
rows have are paired. The figure has a panel for every network that others are compared with.
"""

import sys
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from benchmarks.arguments import make_parser, output_file
from benchmarks.kept_runs import KeptRun, read_kept
from benchmarks.kept_tables import in_common
from dynet_jax.analysis import figures
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import report_mistakes
from dynet_jax.errors import UserError
from dynet_jax.models.registry import model_info
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


def references(arms: list[Arm], against: str | None = None) -> list[Arm | None]:
    """Returns what each arm is compared with: the arm of the network `against`, or of its twin; None for nothing.

    Raises UserError if `against`, or a twin that is there, is not one arm.
    """
    return [_reference(arms, arm, against) for arm in arms]


def _reference(arms: list[Arm], arm: Arm, against: str | None) -> Arm | None:
    network = against or model_info(arm.network).twin
    found = [other for other in arms if other.network == network]
    if len(found) > 1 or (against and not found):
        raise UserError(f"{network}, to compare with, must be one row, and there are {len(found)}")
    return found[0] if found and found[0] is not arm else None


def comparison(arms: list[Arm], against: str | None = None) -> Table:
    """Returns a table with a row for each arm, as the module's docstring describes it."""
    rows = []
    for arm, other in zip(arms, references(arms, against)):
        errors, loss = arm.errors(), fmean(run.train[-1]["loss"] for run in arm.runs.values())
        seeds = sorted(arm.runs.keys() & other.runs.keys()) if other else []
        by_seed = ", ".join(f"{seed}: {value:.2f}" for seed, value in zip(sorted(arm.runs), errors.values))
        row = (arm.network, ", ".join(arm.changed), f"{loss:.3f}", by_seed, errors.text())
        if other is None or not seeds:
            rows.append((*row, "", "", "", ""))
            continue
        difference = paired(arm.errors(seeds), other.errors(seeds))
        held = [arm.errors(how=how) for how in HELD]
        texts = ["" if sample is None else sample.text() for sample in held]
        rows.append((*row, difference.interval, _said(difference), *texts))
    return Table((*HEADER, *HELD), rows)


def _said(difference: Sample) -> str:
    if len(difference.values) < 2:
        return "one seed"
    return {"seen": "better", "not seen": "worse", "not decided": "not decided"}[verdict(difference)]


def plot(arms: list[Arm], against: str | None, file: Path, title: str) -> None:
    """Plots the test error of every seed, with the means: a panel for each network that others are compared with."""
    compared = references(arms, against)
    panels = [[first, *(arm for arm, other in zip(arms, compared) if other is first)] for first in arms]
    panels = [panel for panel in panels if len(panel) > 1]
    ratios = [len(panel) for panel in panels]
    size = (2.2 * sum(ratios) + 1.5, 4.2)
    figure, axes = figures.subplots(1, len(panels), figsize=size, width_ratios=ratios, layout="constrained")
    for axis, panel in zip(np.ravel(axes), panels):
        _plot_panel(axis, panel)
    np.ravel(axes)[0].set(ylabel="test error, %")
    figure.suptitle(title, fontsize=11)
    figures.save(figure, file)


def _plot_panel(axes, arms: list[Arm]) -> None:
    """Plots the seeds of every arm, joined to those of the first."""
    first, *_ = arms
    colors = figures.colors("viridis", [index / max(1, len(first.runs)) for index in range(len(first.runs))])
    for seed, color in zip(sorted(first.runs), colors):
        points = [(x, arm.runs[seed].error()) for x, arm in enumerate(arms) if seed in arm.runs]
        axes.plot(*zip(*points), marker="o", color=color, linewidth=1, alpha=0.8, label=f"seed {seed}")
    for x, arm in enumerate(arms):
        axes.hlines(arm.errors().mean, x - 0.18, x + 0.18, color="black", linewidth=2)
    labels = ["\n".join((arm.network, *arm.changed)) for arm in arms]
    axes.set_xticks(range(len(arms)), labels, fontsize=8)
    axes.set(xlim=(-0.4, len(arms) - 0.6))
    axes.legend(frameon=False, fontsize=8)
    figures.plain(axes)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("kept_comparison", __doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--against", metavar="NETWORK", help="to compare with; default: each network's static twin")
    parser.add_argument("--png", type=output_file)
    parser.add_argument("--title", default="", help="of the figure")
    options = parser.parse_args(arguments)
    runs = read_kept(options.files)
    arms = arms_of(runs)
    common = [change for change in in_common(runs) if not change.startswith("seed=")]
    print(f"All runs: `{' '.join(f'--config.{change}' for change in common)}`\n")
    print(comparison(arms, options.against).markdown())
    if options.png is not None:
        plot(arms, options.against, options.png, options.title)
    return 0


if __name__ == "__main__":
    sys.exit(report_mistakes("kept_comparison", main))
