"""The definition of a configuration key: type, range, defaults, and when it may change. `keys.py` declares the keys."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from dynet_jax.config.literals import read_literal
from dynet_jax.errors import UserError

LARGEST = sys.float_info.max  # larger values, and nan, are rejected
TASKS = ("classification", "segmentation")
RESUME, EVALUATION = "on resuming", "on resuming and in an evaluation"
ARMS = "the arms"  # keys in which the networks and seeds of `dynet reproduce` differ


class Rule(NamedTuple):
    """The allowed values of the right type: "must be {text}"."""

    text: str
    allows: Callable[[Any], bool]


POSITIVE = Rule("positive", lambda value: value > 0)
FROM_0 = Rule("0 or more", lambda value: value >= 0)
FRACTION = Rule("in [0, 1)", lambda value: 0 <= value < 1)


def one_of(*choices: Any) -> Rule:
    """Returns the rule that allows only these values."""
    return Rule(f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}", choices.__contains__)


def numbers(text: str, count: int, kinds: tuple[type, ...] = (int, float), above: float = 0.0) -> Rule:
    """Returns the rule that allows `count` finite numbers above a limit."""
    return Rule(text, lambda v: len(v) == count and all(type(n) in kinds and above < n <= LARGEST for n in v))


def is_range(value: tuple, low: float, high: float) -> bool:
    """Returns whether the value is two numbers within limits, in ascending order."""
    return len(value) == 2 and all(type(n) in (int, float) for n in value) and low <= value[0] <= value[1] <= high


class Key(NamedTuple):
    """A key of the configuration.

    Attributes:
      name: 'data.image_size' is `image_size` in the section `data`.
      type: int, float, str, bool, tuple (or a list), or dict. A dict is a section of arguments of a function that the
        user chooses, 'optimizer_arguments.b2'. None is any type.
      default: the default of both tasks, or {task: default} for tasks with the key in their recipe. {} means that each
        network has its own.
      help: one line. rule: the allowed values. unit: the unit of a number, such as 'px'. none: the meaning of None, if
        it is allowed. example: an example value, if there is no default.
      free: when the key may change without a flag, because it does not change what is trained: `RESUME`, or
        `EVALUATION` if `dynet evaluate` may change it as well. "" is never.
      fixed: the reason why it can never change on resuming, not even with a flag.
      set_by: what sets it in `dynet reproduce`, where the user may not: an option, or `ARMS`.
    """

    name: str
    type: type | None
    default: Any
    help: str
    rule: Rule | None = None
    unit: str = ""
    none: str = ""
    example: Any = None
    free: str = ""
    fixed: str = ""
    set_by: str = ""

    @property
    def defaults(self) -> dict[str, Any]:
        """Returns the defaults by task, without those that leave it to the network."""
        return self.default if isinstance(self.default, dict) else dict.fromkeys(TASKS, self.default)

    @property
    def range(self) -> str:
        """Returns the allowed values, in words."""
        if self.type is bool:
            return "True or False"
        allowed = self.rule.text if self.rule else ""
        return f"{allowed}, or None for {self.none}" if self.none else allowed

    def parse(self, text: str, present: Any = None) -> Any:
        """Returns a value of the command line in the key's type. Raises UserError for another type.

        >>> Key("epochs", float, 300.0, "of training").parse("5")
        5.0
        """
        value = read_literal(text)
        if value is None and (self.none or self.type is None):
            return None
        if self.type is str:
            return text
        if self.type is int and type(value) is float and value.is_integer():
            value = int(value)
        if self.type is float and type(value) is int:
            value = float(str(value))  # inf if the number is too large for a float, which `check` rejects
        if self.type in (tuple, None) and type(value) is list:
            value = tuple(value)
        self._check_type(value, text, present)
        return value

    def check(self, value: Any) -> None:
        """Raises UserError unless the value is allowed."""
        if value is None and self.none:
            return
        self._check_type(value, value, None)
        if isinstance(value, float | int) and not abs(value) <= LARGEST:
            raise UserError(f"{self.name} must be finite, not {str(value)[:40]}")
        if self.rule is not None and not self.rule.allows(value):
            raise UserError(f"{self.name} must be {self.range}, not {value!r}")

    def _check_type(self, value: Any, written: Any, present: Any) -> None:
        allowed = {float: (float, int), tuple: (tuple, list), None: (type(value),)}.get(self.type, (self.type,))
        if type(value) in allowed:
            return
        example = next((v for v in (present, *self.defaults.values(), self.example) if v not in (None, (), "")), None)
        like = "" if example is None else f", like {json.dumps(example) if self.type is tuple else repr(example)}"
        named = getattr(self.type, "__name__", "")
        kind = "list" if self.type is tuple else "a section of arguments" if self.type is dict else named
        raise UserError(f"{self.name} must be {kind}{like}, not {written!r}")


class Pairs(Key):
    """A key whose value is pairs of a regular expression on parameter names and a number of at least 0."""

    @property
    def range(self) -> str:
        return "pairs of a pattern and a number"

    def check(self, value: Any) -> None:
        self._check_type(value, value, None)
        for pair in value:
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise UserError(f"{self.name} must be {self.range}, like {json.dumps(self.example)}, not {pair!r}")
            pattern, number = pair
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"{self.name} has {pattern!r}, which is not a regular expression: {error}") from error
            if type(number) not in (int, float) or not 0 <= number <= LARGEST:
                raise UserError(f"{self.name} must have numbers from 0 up, not {number!r} for {pattern!r}")
