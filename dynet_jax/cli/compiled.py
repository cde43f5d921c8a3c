"""What `dynet compile-tpu` and `compile-gpu` have in common: configurations in, their report out."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynet_jax.arguments import overrides


def add_configurations(parser) -> None:
    """Adds CONFIG, --compare and keys of the configuration."""
    parser.add_argument("config", help="a file as train.py takes it, FILE[:VARIANT]")
    parser.add_argument("--compare", metavar="CONFIG", help="another file, compiled too and shown beside it")
    parser.set_defaults(takes_overrides=True)


def report_steps(options, machine: Any, compile_for: Callable) -> None:
    """Compiles what the options name for a machine that the compiler knows, and prints the report."""
    from dynet_jax.compiled.report import report
    from dynet_jax.config.load import load_config, override

    files = [options.config, *filter(None, [options.compare])]
    configs = [load_config(file) for file in files]
    for config in configs:
        override(config, overrides(options.overrides))
    results = []
    for file, config in zip(files, configs):
        _say(f"compiling {file} for {machine.name} (one to ten minutes) ...")
        results.append(compile_for(config, machine, progress=_say))
    print(report([Path(file).stem for file in files], results, machine))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
