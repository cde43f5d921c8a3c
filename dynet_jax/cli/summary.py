"""`dynet summary`: what networks cost."""

from typing import Any

from dynet_jax.arguments import overrides
from dynet_jax.errors import UserError


def add_summary(commands) -> None:
    parser = commands.add_parser(
        "summary",
        help="multiply-adds and parameters of networks, beside the paper's",
        description="One MODEL: layer by layer. Several, or --all: side by side, and beside the paper's numbers.",
        epilog="examples: dynet summary dy_mobile --width=0.5; dynet summary resnet18 dy_resnet18; "
        "dynet summary dy_resnet18 --config.model.hidden_divisor=None; dynet summary --all",
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names of dynet_jax.list_models()")
    parser.add_argument("--all", action="store_true", help="every network, and the FLOPs of the paper's tables 1, 3, 4")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--num-classes", type=int)
    parser.add_argument("--width", type=float)
    parser.add_argument("--group-size", type=int)
    parser.add_argument("--small-input", action="store_const", const=True, help="stride 8, for images of about 32x32")
    parser.set_defaults(run=_summary, takes_overrides=True)


def _summary(options) -> None:
    from dynet_jax.analysis import summary
    from dynet_jax.analysis.subject import Subject
    from dynet_jax.models import list_models

    keys = ("num_classes", "width", "group_size", "small_input")
    arguments = {key: getattr(options, key) for key in keys if getattr(options, key) is not None}
    changes = overrides(options.overrides)
    if options.all == bool(options.models):
        raise UserError(f"name one or more models, or --all; the models are {', '.join(list_models())}")
    if options.all and (arguments or changes or options.image_size is not None):
        raise UserError("--all shows the networks as the paper has them; name models to change their arguments")
    for key in arguments:
        if any(change.startswith(f"--config.model.{key}=") for change in changes):
            raise UserError(f"--{key.replace('_', '-')} and --config.model.{key} are the same; give one of them")
    if options.image_size is not None and options.image_size < 1:
        raise UserError(f"--image-size must be positive, not {options.image_size}")
    subjects = [
        Subject(name, arguments | _changed(name, changes), options.image_size or 224) for name in options.models
    ]
    subjects = subjects or summary.all_subjects()
    if options.csv:
        table = summary.layer_table(subjects[0]) if len(subjects) == 1 else summary.csv_table(subjects)
        print(table.csv())
        return
    rows = summary.ROWS if options.all else [row for subject in subjects for row in summary.rows_of(subject)]
    print(summary.summarize(subjects, rows))


def _changed(name: str, changes: list[str]) -> dict[str, Any]:
    """Arguments of the network, of --config.model.KEY=VALUE as train.py takes them."""
    import ml_collections

    from dynet_jax.config.load import override

    config = ml_collections.ConfigDict({"model": {"name": name}})
    override(config, changes)
    arguments = config.model.to_dict()
    if arguments.pop("name") != name:
        raise UserError("name another network as MODEL, not by --config.model.name")
    return arguments
