"""What the benchmarks show: progress, numbers, and lines of Markdown. Of the standard library alone, as PyTorch's side
shows it too."""

import math
import sys
from collections.abc import Iterator


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def table_head(*words: str, numbers: list[str]) -> Iterator[str]:
    yield table_row(*words, *numbers)
    yield table_row(*["---"] * len(words), *["---:"] * len(numbers))


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"
