"""The output of the benchmarks: numbers, and lines of Markdown."""

import math
from collections.abc import Iterator


def table_head(*words: str, numbers: list[str]) -> Iterator[str]:
    yield table_row(*words, *numbers)
    yield table_row(*["---"] * len(words), *["---:"] * len(numbers))


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"
