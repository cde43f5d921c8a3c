"""Networks for `dynet_jax/pretrained/`, from finished work directories.

    python -m benchmarks.pretrained runs/a --variant=cifar10 --name=dy_resnet18_cifar10 --data=packed:DIR

writes dynet_jax/pretrained/NAME: the configuration, the class names, the weights (in half precision), and `card.json`,
whose accuracy is that of the written weights on the run's test set. `--table` prints the cards of all such networks.
"""

import json
import sys
from pathlib import Path

from benchmarks.arguments import make_parser
from benchmarks.kept_runs import difference, training_command
from dynet_jax.analysis.macs import count_macs
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import report_mistakes, workdir_argument
from dynet_jax.config.load import load_config
from dynet_jax.console import say
from dynet_jax.errors import UserError
from dynet_jax.models.weights_file import write_weights
from dynet_jax.predict import evaluate_workdir
from dynet_jax.pretrained import CARD_FILE, FOLDER, WEIGHTS_FILE, list_pretrained
from dynet_jax.trained import open_trained
from dynet_jax.workdir.files import record


def write_pretrained(workdir: Path, name: str, variant: str, data: str, folder: Path) -> dict:
    """Writes the network's folder, and returns its card. Raises UserError for a run that cannot be one."""
    trained = open_trained(workdir, step="best")
    if trained.config.temperature_from is not None:
        raise UserError(f"{workdir}: a temperature that changes is not part of the weights")
    network, changes = difference(trained.config, variant)
    config = trained.config.copy_and_resolve_references()
    default = load_config(network).data
    config.data.update({"name": default.name, "data_dir": default.data_dir, "cache": default.cache})
    record(folder, config, trained.class_names)
    write_weights(folder / WEIGHTS_FILE, trained.variables)
    count = count_macs(trained.model, (config.data.image_size, config.data.image_size, 3))
    card = {
        "name": name,
        "network": network,
        "data": default.name,
        "seed": config.seed,
        "epochs": config.epochs,
        "step": trained.step,
        "command": training_command(network, changes),
        "image_size": config.data.image_size,
        "parameters": count.parameters,
        "macs": count.total,
    }
    (folder / CARD_FILE).write_text(json.dumps(card))
    values = evaluate_workdir(folder, data)
    card |= {"test_images": int(values["examples"]), "top1": round(float(values["top1"]), 4)}
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n")
    return card


def card_table() -> Table:
    """Returns a table of the networks in the package."""
    rows = []
    for name in list_pretrained():
        card = json.loads((FOLDER / name / CARD_FILE).read_text())
        size = (FOLDER / name / WEIGHTS_FILE).stat().st_size
        accuracy = f"{100 * card['top1']:.2f} % of {card['test_images']:,}"
        macs, millions = f"{card['macs'] / 1e6:.2f}", f"{size / 1e6:.2f}"
        rows.append((f"`{name}`", card["data"], card["image_size"], accuracy, macs, millions, f"`{card['network']}`"))
    return Table(("name", "data", "px", "top-1", "MACs, 1e6", "MB", "configuration"), rows)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("pretrained", __doc__)
    parser.add_argument("workdir", nargs="?", type=workdir_argument)
    parser.add_argument("--variant", help="of the configuration, like cifar10")
    parser.add_argument("--name", help="of the new network")
    parser.add_argument("--data", help="the data set as it is here, like packed:DIR; default: the variant's")
    parser.add_argument("--table", action="store_true", help="print the table of the networks that are there")
    options = parser.parse_args(arguments)
    if not options.table:
        if None in (options.workdir, options.variant, options.name):
            raise UserError("name WORKDIR, --variant and --name, or ask for --table")
        folder = FOLDER / options.name
        say(json.dumps(write_pretrained(options.workdir, options.name, options.variant, options.data, folder)))
    else:
        print(card_table().markdown())
    return 0


if __name__ == "__main__":
    sys.exit(report_mistakes("pretrained", main))
