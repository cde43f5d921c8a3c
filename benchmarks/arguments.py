"""The arguments of all benchmarks: read and checked before anything long begins, a mistake answered by one line."""

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
    """'a,b' or 'all' -> the names, each once."""

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
    """'64,256' -> the numbers, each once."""
    return list(dict.fromkeys(positive(int)(word) for word in text.split(",")))


def topology(text: str) -> Slice:
    """'v5e:2x2' -> a slice."""
    try:
        return parse_topology(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def topologies(text: str) -> list[Slice]:
    return [topology(word) for word in dict.fromkeys(text.split(","))]


def output_file(text: str) -> Path:
    """One that can be written: hours later would be late to learn that it cannot."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a directory")
    return path
