"""What a key of the configuration is: its type, range and defaults, and who may change it. `keys.py` declares them."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from dynet_jax.config.literals import read_literal
from dynet_jax.errors import UserError

LARGEST = sys.float_info.max  # what is larger, or nan, is not a number that anything could be computed with
TASKS = ("classification", "segmentation")
RESUME, EVALUATION = "when a run goes on", "when a run goes on, and in an evaluation"
ARMS = "the arms"  # of `dynet reproduce`: what its networks and seeds differ in


class Rule(NamedTuple):
    """Which values of the right type are allowed: "must be {text}"."""

    text: str
    allows: Callable[[Any], bool]


POSITIVE = Rule("positive", lambda value: value > 0)
FROM_0 = Rule("0 or more", lambda value: value >= 0)
FRACTION = Rule("in [0, 1)", lambda value: 0 <= value < 1)


def one_of(*choices: Any) -> Rule:
    """Returns the rule that allows these values alone."""
    return Rule(f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}", choices.__contains__)


def numbers(text: str, count: int, kinds: tuple[type, ...] = (int, float), above: float = 0.0) -> Rule:
    """Returns the rule that allows so many finite numbers above a limit."""
    return Rule(text, lambda v: len(v) == count and all(type(n) in kinds and above < n <= LARGEST for n in v))


def is_range(value: tuple, low: float, high: float) -> bool:
    """Returns whether the value is two numbers of that range, in rising order."""
    return len(value) == 2 and all(type(n) in (int, float) for n in value) and low <= value[0] <= value[1] <= high


class Key(NamedTuple):
    """A key of the configuration.

    Attributes:
      name: 'data.image_size' is `image_size` in the section `data`.
      type: int, float, str, bool, tuple (or a list), or dict: a section of arguments that a function of the user's
        choice takes, 'optimizer_arguments.b2'. None is any type.
      default: of both tasks, or {task: default} of those that have the key in their recipe. {} is none: each network
        has its own.
      help: one line. rule: which values are allowed. unit: of a number, such as 'px'. none: what None means, where it
        is allowed. example: of a value, where the default is none.
      free: when it may change without being asked, as it does not change what is trained: `RESUME`, or `EVALUATION`,
        where `dynet evaluate` may change it as well. "" is never.
      fixed: why it may not change when a run goes on, where that cannot be asked for either.
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
        """Which values are allowed, in words."""
        if self.type is bool:
            return "True or False"
        allowed = self.rule.text if self.rule else ""
        return f"{allowed}, or None for {self.none}" if self.none else allowed

    def parse(self, text: str, present: Any = None) -> Any:
        """A value of the command line, as the key's type. Raises UserError if it is of another.

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
            value = float(str(value))  # inf where the number is too large to be a float, which `check` refuses
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
    """A key whose value is pairs of a regular expression on the names of parameters, and a number from 0 up."""

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
                raise UserError(f"{self.name} has {pattern!r}, which is no regular expression: {error}") from error
            if type(number) not in (int, float) or not 0 <= number <= LARGEST:
                raise UserError(f"{self.name} must have numbers from 0 up, not {number!r} for {pattern!r}")
