"""Functions of optax, or similar ones, selected by name, with arguments from a configuration."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dynet_jax.errors import UserError, named, suggest


def look_up(kind: str, name: str, offered: Mapping[str, Callable]) -> Callable:
    """Returns the function of that name. Raises UserError if there is no such 'optimizer' or 'schedule'."""
    if name not in offered:
        raise UserError(f"unknown {kind} {name!r}; {suggest(name, offered)}")
    return offered[name]


def call(
    kind: str,
    name: str,
    function: Callable,
    chosen: Mapping[str, Any],
    *,
    filled: Mapping[str, Any],
    decided: Mapping[str, str],
) -> Any:
    """Calls the function with those of the `filled` arguments that it has, and with the arguments `chosen` by the user.

    `decided` maps arguments to the keys of the configuration that set them. Raises UserError for an argument that the
    function does not have, that has another type than its default, or that is missing.
    """
    parameters = inspect.signature(function).parameters
    for argument, value in chosen.items():
        key = f"{kind}_arguments.{argument}"
        if argument in decided:
            raise UserError(f"{key} is set by {decided[argument]}")
        if argument not in parameters:
            others = [other for other in parameters if other not in decided]
            raise UserError(f"{kind} {name!r} has no argument {argument!r}; {suggest(argument, others)}")
        _check_type(key, value, parameters[argument].default)
    arguments = {key: value for key, value in filled.items() if key in parameters} | dict(chosen)
    for parameter in parameters.values():
        if parameter.default is parameter.empty and parameter.name not in arguments:
            raise UserError(f"{kind} {name!r} needs --config.{kind}_arguments.{parameter.name}=VALUE")
    return attempt(kind, name, lambda: function(**arguments))


def attempt(kind: str, name: str, run: Callable[[], Any]) -> Any:
    """Returns the result of `run`. Raises UserError instead of optax's exception for a value that it cannot use."""
    try:
        return run()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{kind} {name!r} cannot be used like this: {named(error)}") from error


def _check_type(key: str, value: Any, default: Any) -> None:
    """Checks a value by the type of a simple default, since optax finds some wrong types only at the first step."""
    allowed = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}.get(type(default), (type(value),))
    if type(value) not in allowed:
        raise UserError(f"{key} must be {type(default).__name__}, like {default!r}, not {value!r}")
