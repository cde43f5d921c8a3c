"""`train.py` and `dynet train`: train a network."""

import argparse
import os
import signal
from pathlib import Path

from dynet_jax.arguments import Parser, add_imports, overrides, report_mistakes, workdir_argument
from dynet_jax.config.listing import help_text
from dynet_jax.errors import UserError
from dynet_jax.plugins import import_plugins

LESS_MEMORY = "use fewer --config.data.threads, and --config.data.cache=False"
STOPPED = 75  # EX_TEMPFAIL, as after a signal in training


def train_main(arguments: list[str] | None = None) -> int:
    """The `train.py` command. Returns its exit code."""
    parser = Parser(
        prog="train.py",
        usage="train.py --config=FILE[:VARIANT] [--workdir=DIR] [--config.KEY=VALUE ...] [options]",
        **_texts("python train.py --config=configs/dy_mobile.py:digits --workdir=runs/digits --config.epochs=5"),
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help=_CONFIG)
    _add_options(parser)
    add_imports(parser)
    options, rest = parser.parse_known_args(arguments)
    options.overrides = rest

    def run():
        import_plugins(options.imports)
        return _train(options)

    return report_mistakes("train.py", run, lambda: LESS_MEMORY)


def add_train(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train a network",
        usage="dynet train NETWORK[:VARIANT] [--workdir=DIR] [--config.KEY=VALUE ...] [options]",
        **_texts("dynet train dy_mobile:digits --workdir=runs/digits --config.epochs=5"),
    )
    # The option that train.py has names the same; without a default of its own the one does not undo the other.
    parser.add_argument("config", nargs="?", default=argparse.SUPPRESS, metavar="NETWORK[:VARIANT]", help=_CONFIG)
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="the same")
    _add_options(parser)
    parser.set_defaults(run=_train_here, takes_overrides=True, less_memory=LESS_MEMORY)


_CONFIG = "a network by its name, like dy_mobile:digits, or a configuration file, like configs/dy_mobile.py:digits"


def _texts(example: str) -> dict:
    return {
        "description": "Train a network. The same command again continues from the newest checkpoint in WORKDIR.",
        "epilog": f"example: {example}\n\n{help_text()}",
        "allow_abbrev": False,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _add_options(parser) -> None:
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        type=workdir_argument,
        help="a folder, or gs://BUCKET/PATH; default: runs/NAME-VARIANT",
    )
    parser.add_argument(
        "--init_from", metavar="DIR", type=workdir_argument, help="begin with the parameters of another work directory"
    )
    parser.add_argument(
        "--allow_config_change", action="store_true", help="go on although the configuration of WORKDIR was another"
    )
    parser.add_argument(
        "--profile", type=int, default=0, metavar="STEPS", help="trace so many steps, for TensorBoard's profile page"
    )
    _add_hosts(parser)


def _train_here(options) -> int:
    if options.config is None:
        raise UserError("name what to train, like dynet train dy_mobile:digits; see dynet train --help")
    return _train(options)


def leave_at_signals() -> None:
    """Ends the process at SIGTERM and Ctrl-C, until training has its own answer to them: imports take seconds.

    An exception would be lost in some callback of a library.
    """

    def leave(number, frame):
        os.write(2, b"dynet: stopped; run the same command to go on\n")
        os._exit(STOPPED)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)


def _train(options) -> int:
    from dynet_jax.config.load import load_config, override, with_open_classes
    from dynet_jax.hosts import leave
    from dynet_jax.train.loop import train
    from dynet_jax.train.program_cache import use_compilation_cache
    from dynet_jax.workdir.echoes import report_failures_once

    if options.workdir is not None and not options.workdir.name:
        raise UserError("--workdir must name a directory for this run alone, like runs/digits")
    if options.profile < 0:
        raise UserError(f"--profile must be a number of steps, not {options.profile}")
    changes = with_open_classes(overrides(options.overrides))
    named = [change.partition("=")[2] for change in changes if change.startswith("--config.model.name=")]
    config = load_config(options.config, *named[-1:])
    override(config, changes + ([] if options.init_from is None else [f"init_from={options.init_from}"]))
    path, _, variant = options.config.partition(":")
    workdir = options.workdir or Path("runs") / "-".join(filter(None, (Path(path).stem, variant)))
    use_compilation_cache()
    report_failures_once()
    _join_hosts(options)
    code = train(
        config,
        workdir,
        allow_config_change=options.allow_config_change,
        profile_steps=options.profile,
        ends_process=True,
    )
    leave()
    return code


def _add_hosts(parser) -> None:
    group = parser.add_argument_group("several hosts", "the same command on each of them; see docs/training.md")
    group.add_argument("--distributed", action="store_true", help="on a Cloud TPU pod, or under SLURM or Open MPI")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="elsewhere: an address on the first host")
    group.add_argument("--processes", type=int, metavar="N", help="with --coordinator: how many there are")
    group.add_argument("--process", type=int, metavar="I", help="with --coordinator: which one this is, from 0")
    group.add_argument(
        "--heartbeat_timeout", type=int, default=100, metavar="SECONDS", help="of silence until a host counts as dead"
    )


def _join_hosts(options) -> None:
    from dynet_jax import hosts
    from dynet_jax.hardware import description

    if options.heartbeat_timeout < 1:
        raise UserError(f"--heartbeat_timeout must be positive, not {options.heartbeat_timeout}")
    explicit = (options.coordinator, options.processes, options.process)
    if any(value is not None for value in explicit):
        if any(value is None for value in explicit):
            raise UserError("--coordinator, --processes and --process go together")
        if not 0 <= options.process < options.processes:
            raise UserError(f"--process={options.process} is not one of --processes={options.processes}, from 0")
    elif not options.distributed:
        return
    hosts.join(*explicit, heartbeat_seconds=options.heartbeat_timeout)
    hosts.same_before_start("what JAX computes with", description())
