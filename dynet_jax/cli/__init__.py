"""The commands: `train.py`, and `dynet`'s summary, train, prepare, evaluate, predict, correlate, import-torch, export,
compile-tpu, compile-gpu, benchmark and reproduce.

A command imports what it works with when it runs: --help, and the answer to a mistyped argument, do not wait for it.
"""

import sys

from dynet_jax.arguments import FAILED, Parser, add_imports, report_mistakes
from dynet_jax.cli.benchmark import add_benchmark
from dynet_jax.cli.compile_gpu import add_compile_gpu
from dynet_jax.cli.compile_tpu import add_compile_tpu
from dynet_jax.cli.correlate import add_correlate
from dynet_jax.cli.export import add_export
from dynet_jax.cli.prepare import add_prepare
from dynet_jax.cli.reproduce import add_reproduce
from dynet_jax.cli.summary import add_summary
from dynet_jax.cli.train import add_train, train_main
from dynet_jax.cli.workdirs import add_evaluate, add_import_torch, add_predict
from dynet_jax.plugins import import_plugins

__all__ = ["FAILED", "main", "train_main"]


def main(arguments: list[str] | None = None) -> int:
    """The `dynet` command. Returns its exit code."""
    parser = Parser(prog="dynet", description="Dynamic convolutional networks in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_train(commands)
    add_summary(commands)
    add_prepare(commands)
    add_evaluate(commands)
    add_predict(commands)
    add_correlate(commands)
    add_import_torch(commands)
    add_export(commands)
    add_compile_tpu(commands)
    add_compile_gpu(commands)
    add_benchmark(commands)
    add_reproduce(commands)
    for command in commands.choices.values():
        add_imports(command)
    options, rest = parser.parse_known_args(arguments)
    if rest and not getattr(options, "takes_overrides", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides = rest

    def run():
        import_plugins(options.imports)
        try:
            return options.run(options)
        except (AssertionError, RuntimeError) as error:  # what JAX raises where a device that is asked for is missing
            if "jax" in sys.modules:
                from dynet_jax.hardware import explain

                explain(error)
            raise

    return report_mistakes("dynet", run, lambda: getattr(options, "less_memory", ""))
