"""The numbers of finished runs in a compact form, so that they outlive the machine that made them.

    python -m benchmarks.kept_runs runs/a runs/b --variant=cifar10 --out=docs/measured/cifar10

writes OUT/NAME.json for every finished work directory: the changes of its configuration relative to the variant, the
rows of its metrics, and its test error with the predicted coefficients and with those of `dynet evaluate
--coefficients`. An existing file is not made again. `benchmarks.kept_tables` makes tables and figures of such files.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.arguments import make_parser
from dynet_jax.arguments import FAILED, report_mistakes
from dynet_jax.config.load import flatten_whole, load_config
from dynet_jax.console import say
from dynet_jax.errors import UserError
from dynet_jax.evaluation.held_coefficients import HELD
from dynet_jax.models.registry import create_model, is_dynamic
from dynet_jax.predict import evaluate_workdir
from dynet_jax.train.movement import KEY
from dynet_jax.train.program_cache import use_compilation_cache
from dynet_jax.train.setup import count_steps
from dynet_jax.workdir.changes import changed_keys
from dynet_jax.workdir.files import IMAGES_FILE, read_config, write_whole
from dynet_jax.workdir.metrics import METRICS_FILE, read_metrics

KEPT, MOVEMENT = ("loss", "top1", "learning_rate"), ("/deviation", "/from_half")
# Of the machine or of the files, not of what is trained.
NOT_KEPT = {"data.name", "data.data_dir", "data.threads", "data.workers", "data.cache", "keep_checkpoints"}


class KeptRun(NamedTuple):
    """A finished run.

    Attributes:
      name: the name of its work directory.
      config: the network and the variant, like 'dy_resnet18:cifar10', or the file and the variant.
      changes: changed keys of that configuration, as --config.KEY=VALUE without the prefix.
      train, test: rows of its metrics, each with 'step', 'loss', 'top1'.
      held: {'own', 'frozen', 'shuffled', 'half': {'top1', 'loss'}}; only 'own' for a static network.
    """

    name: str
    config: str
    changes: list[str]
    train: list[dict]
    test: list[dict]
    held: dict[str, dict[str, float]]

    @property
    def network(self) -> str:
        return Path(self.config.partition(":")[0]).stem

    def option(self, key: str) -> str | None:
        """Returns the value of a changed key."""
        found = dict(change.split("=", 1) for change in self.changes)
        return found.get(key)

    def error(self, how: str = "own") -> float | None:
        """Returns the test error in percent."""
        return 100 * (1 - self.held[how]["top1"]) if how in self.held else None

    @property
    def command(self) -> str:
        return training_command(self.config, self.changes)


def training_command(config: str, changes: list[str]) -> str:
    """Returns the command of a run with these changes of a configuration."""
    options = " ".join(f"'--config.{change}'" if '"' in change else f"--config.{change}" for change in changes)
    return f"python train.py --config={config} {options}".rstrip()


def read_kept(paths: list[Path]) -> list[KeptRun]:
    """Returns the run in a file. Raises UserError for any other file."""
    runs = []
    for path in paths:
        try:
            runs.append(KeptRun(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is no file of benchmarks.kept_runs: {error}") from error
    return runs


def keep(workdir: Path, variant: str) -> KeptRun:
    """Returns the run of a work directory. Raises UserError if it is not finished, or its network is unknown."""
    rows = {kind: read_metrics(workdir / METRICS_FILE, kind) for kind in ("train", "test")}
    config = read_config(workdir)
    if not rows["train"] or not rows["test"] or rows["test"][-1]["step"] < _last_step(workdir, config):
        raise UserError(f"{workdir} has not been trained to its end")
    name, changes = difference(config, variant)
    held = {}
    for how in (None, *(HELD if is_dynamic(create_model(**config.model.to_dict())) else ())):
        say(f"{workdir.name}: evaluating, coefficients {how or 'as predicted'} ...")
        values = evaluate_workdir(workdir, coefficients=how)
        held[how or "own"] = {key: _short(values[key]) for key in ("top1", "loss")}
    train = [{"step": row["step"], **_of_row(row)} for row in rows["train"]]
    test = [{"step": row["step"], **{key: _short(row[key]) for key in ("loss", "top1")}} for row in rows["test"]]
    return KeptRun(workdir.name, name, changes, train, test, held)


def _last_step(workdir: Path, config) -> int:
    images = json.loads((workdir / IMAGES_FILE).read_text())
    return count_steps(config, images["training images"])[1]


def difference(config, variant: str) -> tuple[str, list[str]]:
    """Returns the network's configuration by its name, and the changes of this one."""
    name = f"{config.model.name}:{variant}"
    before, now = flatten_whole(load_config(name)), flatten_whole(config)
    changed = [key for key in changed_keys(before, now) if key not in NOT_KEPT and key in now]
    return name, [f"{key}={_text(now[key])}" for key in changed]


def _text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, tuple | list) else str(value)


def _of_row(row: dict) -> dict[str, float]:
    movement = (key for key in row if key.startswith(f"{KEY}/") and key.endswith(MOVEMENT))
    return {key: _short(row[key]) for key in (*KEPT, *movement)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("kept_runs", __doc__)
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--variant", required=True, help="of the configuration, like cifar10")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)
    use_compilation_cache()  # runs that differ in a seed or a rate have the same programs
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for workdir in options.workdirs:
        file = options.out / f"{workdir.name}.json"
        if file.exists():
            continue
        try:
            write_whole(file, json.dumps(keep(workdir, options.variant)._asdict()))
        except UserError as error:
            say(f"not kept: {error}")
            failed = FAILED
        else:
            say(f"kept {file}")
    return failed


if __name__ == "__main__":
    sys.exit(report_mistakes("kept_runs", main))
