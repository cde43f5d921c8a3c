"""Tables and figures of the runs that `benchmarks.kept_runs` has stored.

    python -m benchmarks.kept_tables docs/measured/cifar10/*.json --png=docs/scouting.png

prints what all runs have in common, and then a row for each: the rest of its configuration, the training loss of its
last report, the test error, the test error with coefficients that do not depend on the image (frozen, shuffled, half),
and the final deviation of coefficients between images, in the stage where it is largest. With --png it draws that
deviation over steps, and over the sum of the predictors' learning rates, which limits how far predictors can move.
"""

import json
import re
import sys
from itertools import accumulate
from pathlib import Path

from benchmarks.arguments import make_parser, output_file
from benchmarks.kept_runs import KeptRun, read_kept
from dynet_jax.analysis import figures
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import report_mistakes
from dynet_jax.config.load import load_config
from dynet_jax.errors import UserError
from dynet_jax.evaluation.held_coefficients import HELD
from dynet_jax.train.movement import of_stages

HEADER = ("network", "changed", "training loss", "test error %", *HELD, "deviation")


def in_common(runs: list[KeptRun]) -> list[str]:
    """Returns the changes that all runs make."""
    return [change for change in runs[0].changes if all(change in run.changes for run in runs)]


def scouting_table(runs: list[KeptRun]) -> Table:
    """Returns a table with a row for each run, as the module's docstring describes it."""
    common, rows = set(in_common(runs)), []
    for run in runs:
        changed = ", ".join(change for change in run.changes if change not in common)
        errors = [run.error(how) for how in HELD]
        rows.append((run.network, changed, f"{run.train[-1]['loss']:.3f}", run.error(), *errors, _end(run)))
    return Table(HEADER, rows)


def deviation(row: dict) -> float | None:
    """Returns the deviation of a row of training metrics, in the stage where it is largest; None without any."""
    return max(of_stages(row, "deviation").values(), default=None)


def _end(run: KeptRun) -> str | None:
    """Returns the deviation at the run's last report; None for a static network."""
    last = deviation(run.train[-1])
    return None if last is None else f"{last:.3f}"


def predictor_factor(run: KeptRun) -> float:
    """Returns the factor by which the learning rate of the run's predictors is larger than that of the rest."""
    changed = run.option("learning_rate_factors")
    pairs = load_config(run.config).learning_rate_factors if changed is None else json.loads(changed)
    name = "stage1_block1/predictor/coefficients/kernel"
    return next((float(factor) for pattern, factor in pairs if re.search(pattern, name)), 1.0)


def plot_movement(runs: list[KeptRun], file: Path) -> None:
    """Plots the deviation of coefficients over steps, and over the sum of the predictors' learning rates."""
    runs = [run for run in runs if deviation(run.train[-1]) is not None]
    if not runs:
        raise UserError("none of the runs is of a dynamic network, so there is nothing to draw")
    figure, axes = figures.subplots(1, 2, figsize=(11, 5.2), layout="constrained")
    common = set(in_common(runs))
    colors = figures.colors("viridis", [index / max(1, len(runs) - 1) for index in range(len(runs))])
    for run, color in zip(sorted(runs, key=predictor_factor), colors):
        steps = [row["step"] for row in run.train]
        lengths = [after - before for before, after in zip([0, *steps], steps)]
        distance = accumulate(
            predictor_factor(run) * row["learning_rate"] * length for row, length in zip(run.train, lengths)
        )
        label = ", ".join([run.network, *(change for change in run.changes if change not in common)])
        values = [deviation(row) for row in run.train]
        for panel, x in zip(axes, (steps, list(distance))):
            panel.plot(x, values, color=color, linewidth=1.5, label=label)
    axes[0].set(xlabel="step", ylabel="deviation between images", title="coefficients, stage of the largest deviation")
    axes[1].set(xlabel="sum of the predictors' learning rates over steps", xscale="log", yscale="log", title="the same")
    for panel in axes:
        figures.plain(panel)
    lines, labels = axes[0].get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) <= 60 else 1
    figure.legend(lines, labels, frameon=False, fontsize=8, ncols=columns, loc="outside lower center")
    figures.save(figure, file)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("kept_tables", __doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--png", type=output_file)
    parser.add_argument("--commands", action="store_true", help="print the command of every run too")
    options = parser.parse_args(arguments)
    runs = read_kept(options.files)
    print(f"All runs: `{' '.join(f'--config.{change}' for change in in_common(runs))}`\n")
    print(scouting_table(runs).markdown())
    if options.commands:
        print("\n" + "\n".join(f"    {run.command}" for run in runs))
    if options.png is not None:
        plot_movement(runs, options.png)
    return 0


if __name__ == "__main__":
    sys.exit(report_mistakes("kept_tables", main))
