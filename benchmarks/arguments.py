"""The arguments of all benchmarks, checked before anything long starts; a mistake is answered by one line."""

import argparse
import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

from dynet_jax.arguments import Parser
from dynet_jax.errors import UserError
from dynet_jax.tpu.chips import Slice, parse_topology


def make_parser(module: str, description: str, epilog: str | None = None) -> Parser:
    return Parser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def names(choices: Collection[str]) -> Callable[[str], list[str]]:
    """Returns the names in 'a,b' or 'all', each once."""

    def parse(text: str) -> list[str]:
        if text == "all":
            return list(choices)
        for name in text.split(","):
            if name not in choices:
                raise argparse.ArgumentTypeError(f"unknown name {name!r}; choose from: {', '.join(choices)}")
        return list(dict.fromkeys(text.split(",")))

    return parse


def positive(number: type) -> Callable[[str], float]:
    def parse(text: str):
        with contextlib.suppress(ValueError):
            if 0 < number(text) < float("inf"):
                return number(text)
        raise argparse.ArgumentTypeError(f"must be a positive {number.__name__}, not {text!r}")

    return parse


def batches(text: str) -> list[int]:
    """Returns the numbers in '64,256', each once."""
    return list(dict.fromkeys(positive(int)(word) for word in text.split(",")))


def topology(text: str) -> Slice:
    """Returns the slice named by 'v5e:2x2'."""
    try:
        return parse_topology(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def topologies(text: str) -> list[Slice]:
    return [topology(word) for word in dict.fromkeys(text.split(","))]


def output_file(text: str) -> Path:
    """Returns a path after a check that it can be written, since hours later would be too late to find out."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a directory")
    return path
