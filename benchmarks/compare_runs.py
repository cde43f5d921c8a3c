"""Comparison of networks after equal training: mean and spread over seeds, paired, and their curves.

    python -m benchmarks.compare_runs runs/proof dy_mobile fix_mobile --png curves.png

reads the work directories runs/proof/NETWORK-SEED of train.py, and compares each network with the last one named, by
the final top-1 error on the test set. A seed counts if every network has finished it.
"""

import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.arguments import make_parser, output_file
from dynet_jax.analysis.plots import plot_comparison
from dynet_jax.analysis.table import Table
from dynet_jax.config.load import flatten
from dynet_jax.workdir.files import read_config
from dynet_jax.workdir.metrics import read_metrics

MAY_DIFFER = {"seed", "model.name", "model.group_size"}


class Runs(NamedTuple):
    """The finished runs of several networks: {network: {seed: rows of the test metrics by step}}."""

    rows: dict[str, dict[int, list[dict]]]

    @property
    def seeds(self) -> list[int]:
        """Returns the seeds that every network has finished."""
        return sorted(set.intersection(*(set(runs) for runs in self.rows.values())))

    def errors(self, network: str) -> list[float]:
        """Returns the final top-1 errors in percent, by seed."""
        return [100 * (1 - self.rows[network][seed][-1]["top1"]) for seed in self.seeds]


def read_runs(folder: Path, networks: list[str]) -> Runs:
    """Returns the runs. Raises ValueError if no seed is finished by all, or if they were not trained alike."""
    found, recipe = {}, None
    for network in networks:
        found[network] = {}
        for workdir in sorted(path for path in folder.glob(f"{network}-*") if path.is_dir()):
            config = read_config(workdir)
            alike = {key: value for key, value in flatten(config).items() if key not in MAY_DIFFER}
            if recipe not in (None, alike):
                raise ValueError(f"{workdir} was trained by another recipe than the others")
            recipe = alike
            rows = read_metrics(workdir / "metrics.jsonl", "test")
            if rows and rows[-1]["step"] == _last_step(workdir):
                found[network][config.seed] = rows
    runs = Runs(found)
    if not runs.seeds:
        raise ValueError(f"there is no seed in {folder} that all of {', '.join(networks)} have finished")
    return runs


def _last_step(workdir: Path) -> int:
    train = read_metrics(workdir / "metrics.jsonl", "train")
    return train[-1]["step"] if train and train[-1]["learning_rate"] < 1e-6 else -1


def comparison_table(runs: Runs) -> Table:
    """Returns a table with errors by seed, mean and standard deviation, and paired differences to the last network."""
    *_, baseline = runs.rows
    header = ("network", *(f"seed {seed}" for seed in runs.seeds), "mean", "spread", "difference", "its spread")
    rows = []
    for network in runs.rows:
        errors = runs.errors(network)
        differences = [a - b for a, b in zip(errors, runs.errors(baseline))]
        compared = (None, None) if network == baseline else _mean_and_spread(differences)
        rows.append((network, *errors, *_mean_and_spread(errors), *compared))
    return Table(header, rows)


def _mean_and_spread(values):
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("compare_runs", __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="two or more; the last is the baseline")
    parser.add_argument("--png", type=output_file, help="draw the test errors over steps")
    options = parser.parse_args(arguments)
    try:
        runs = read_runs(options.folder, options.networks)
    except ValueError as error:
        parser.exit(2, f"compare_runs: {error}\n")
    print(comparison_table(runs).markdown())
    if options.png is not None:
        plot_comparison(runs.rows, options.png, title="top-1 error on the test set (every seed, and their mean)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
