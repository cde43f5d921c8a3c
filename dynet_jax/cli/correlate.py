"""`dynet correlate`: how far the feature maps of trained networks are correlated, the paper's Fig. 2 and 6."""

from pathlib import Path

from dynet_jax.arguments import list_argument, path_argument, workdir_argument
from dynet_jax.cli.workdirs import add_step
from dynet_jax.console import say, to_json
from dynet_jax.errors import UserError

FILES = ("correlation.csv", "correlation.json", "correlation.png", "correlation.svg")
LIST = "list"


def add_correlate(commands) -> None:
    parser = commands.add_parser(
        "correlate",
        help="how far the feature maps of trained networks are correlated: the paper's Fig. 2 and 6",
        description="Pearson's correlation between the channels of a layer, over the images of the test set and all "
        "positions. Strong, middle and weak begin at |r| of 0.5, 0.3 and 0.1.",
        epilog="examples: dynet correlate runs/mobilenet_v2 runs/dy_mobilenet_v2 --out=correlation; "
        "dynet correlate runs/digits --layer=stage6_block1/project,stage6 --images=200",
    )
    parser.add_argument(
        "workdirs", nargs="+", type=workdir_argument, metavar="WORKDIR", help="of train.py or import-torch"
    )
    parser.add_argument(
        "--layer",
        type=list_argument,
        metavar="NAME,...",
        help=f"default: the stage before the last; '{LIST}' shows the names",
    )
    add_step(parser)
    parser.add_argument("--images", type=int, metavar="N", help="spread evenly over the test set; default: all")
    parser.add_argument("--data", metavar="NAME", help="another dataset, e.g. folder:PATH")
    parser.add_argument("--data-dir", metavar="DIR", help="where it is prepared")
    parser.add_argument("--json", action="store_true", help="print one JSON object, histograms included")
    parser.add_argument("--out", type=path_argument, metavar="DIR", help=f"where to write {', '.join(FILES)}")
    parser.add_argument("--overwrite", action="store_true", help="the files in DIR if they are there")
    parser.set_defaults(run=_correlate, less_memory="look at fewer images, like --images=8")


def _correlate(options) -> None:
    from dynet_jax.analysis.correlation import choose_layers, correlate_trained
    from dynet_jax.workdir.echoes import report_failures_once

    if options.overwrite and options.out is None:
        raise UserError("--overwrite is of the files in --out=DIR, which is not given")
    _check_out(options.out, options.overwrite)
    workdirs = list(dict.fromkeys(options.workdirs))
    report_failures_once()
    if options.layer == [LIST]:
        _list(options)
        return
    # All are opened first: a mistake in the last name should not be found after an hour of the others.
    opened = [_open(options, workdir) for workdir in workdirs]
    layers = [choose_layers(trained, options.layer) for trained in opened]
    if options.out is not None:  # nor that there cannot be such a folder
        options.out.mkdir(parents=True, exist_ok=True)
    networks = []
    for workdir, trained, chosen in zip(workdirs, opened, layers):
        summaries = correlate_trained(trained, chosen, say)
        about = {"workdir": str(workdir), "model": trained.name, "step": trained.step}
        networks.append({**about, "dataset": trained.dataset, "layers": summaries})
    document = to_json({"networks": [_plain(network) for network in networks]}, indent=2)
    print(document if options.json else _text(networks))
    if options.out is not None:
        _write(options.out, document, networks)


def _open(options, workdir: Path):
    from dynet_jax.analysis.trained import open_trained

    return open_trained(workdir, images=options.images, step=options.step, data=options.data, data_dir=options.data_dir)


def _list(options) -> None:
    from dynet_jax.analysis.feature_maps import list_layers
    from dynet_jax.analysis.table import Table

    rows = []
    for workdir in options.workdirs:
        trained = _open(options, workdir)
        layers = list_layers(trained.model, trained.variables, trained.image_shape)
        rows += [(str(workdir), name, *shape) for name, shape in layers.items()]
    print(Table(("work directory", "layer", "height", "width", "channels"), rows).markdown())


def _text(networks: list[dict]) -> str:
    """The table, and what was measured on."""
    from dynet_jax.analysis.table import Table

    header = ("work directory", "layer", "channels", "dead", "pairs", "S %", "M %", "W %", "N %", "mean |r|")
    rows, notes = [], []
    for network in networks:
        for layer, found in network["layers"].items():
            shares = [_percent(share) for share in (found.strong, found.middle, found.weak, found.none)]
            size = "-" if found.mean_magnitude is None else f"{found.mean_magnitude:.3f}"
            counts = (found.channels, str(found.dead), found.pairs)
            rows.append((network["workdir"], layer, *counts, *shares, size, _percent(found.within)))
            places = f"{found.positions:,} positions of {found.images:,} images of {network['dataset']}"
            notes.append(f"{network['workdir']}, {layer}: {network['model']}, step {network['step']}, over {places}")
    limits = "S, M, W, N: |r| from 0.5, from 0.3, from 0.1, below; Cohen's limits, as the paper does not give its own."
    return "\n".join([Table((*header, "in [-0.1, 0.2] %"), rows).markdown(), "", *notes, limits])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _plain(network: dict) -> dict:
    return network | {"layers": {layer: found.to_dict() for layer, found in network["layers"].items()}}


def _write(out: Path, document: str, networks: list[dict]) -> None:
    from dynet_jax.analysis.correlation import EDGES
    from dynet_jax.analysis.correlation_plots import plot_correlations
    from dynet_jax.analysis.table import Table

    rows = [
        (network["workdir"], layer, round(start, 2), round(end, 2), pairs)
        for network in networks
        for layer, found in network["layers"].items()
        for start, end, pairs in zip(EDGES[:-1].tolist(), EDGES[1:].tolist(), found.histogram)
    ]
    (out / FILES[0]).write_text(Table(("workdir", "layer", "from", "to", "pairs"), rows).csv() + "\n")
    (out / FILES[1]).write_text(document + "\n")
    lines = {
        f"{network['workdir']}, {layer}": found for network in networks for layer, found in network["layers"].items()
    }
    datasets = ", ".join(dict.fromkeys(network["dataset"] for network in networks))
    images = ", ".join(dict.fromkeys(f"{found.images:,}" for found in lines.values()))
    plot_correlations(lines, out / "correlation", f"Correlation between feature maps: {datasets}, {images} images")
    say(f"written to {out}")


def _check_out(out: Path | None, overwrite: bool) -> None:
    present = [name for name in FILES if out is not None and (out / name).exists()]
    if present and not overwrite:
        raise UserError(f"{out} has {', '.join(present)} already; name another folder, or add --overwrite")
