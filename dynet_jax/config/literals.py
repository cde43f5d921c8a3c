"""Values as users write them on a command line: as JSON, as Python, or as plain words."""

import ast
import json
from typing import Any

WORDS = {"true": True, "false": False, "none": None, "null": None}
PLAIN = (bool, int, float, str, tuple, list, dict, type(None))


def read_literal(text: str) -> Any:
    """Returns the number, truth value, None, list, ... that a text stands for, or the text itself.

    >>> [read_literal(text) for text in (".1", "5.", "+1", "1_000", "1e-3", "TRUE", "none", "[.5, 2]", "1, 2", "adam")]
    [0.1, 5.0, 1, 1000, 0.001, True, None, [0.5, 2], (1, 2), 'adam']
    """
    if text.strip().lower() in WORDS:
        return WORDS[text.strip().lower()]
    for read in (json.loads, ast.literal_eval, float):  # float is for nan and inf, which Python writes as names
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return value if isinstance(value, PLAIN) else text
    return text
