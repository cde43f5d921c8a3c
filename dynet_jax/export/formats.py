"""Export formats by name: the decorator that registers them, each with the options that it alone has."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dynet_jax.export
from dynet_jax.errors import UserError, suggest
from dynet_jax.inference.model import InferenceModel
from dynet_jax.inference.program import Program
from dynet_jax.registry import Registry

Writer = Callable[..., bytes]


class Option(NamedTuple):
    """An option of a format, --NAME=VALUE of `dynet export` and a keyword of its writer.

    Attributes:
      help: one line.
      read: the text of the command line -> what the writer takes; raises ValueError for what it cannot read.
      metavar: the value in --help.
    """

    help: str
    read: Callable[[str], Any] = str
    metavar: str = "VALUE"


class ExportFormat(NamedTuple):
    """A format: write(model, name of the network, **options) -> the content of the file, NETWORK.SUFFIX.

    `any_network` says whether it writes networks that programs cannot express, from the model's `module`.
    `check` raises UserError if `write` lacks a package; it is called before a network is opened, which takes seconds.
    """

    name: str
    help: str
    options: Mapping[str, Option]
    write: Writer
    suffix: str
    check: Callable[[], object] = lambda: None
    any_network: bool = False


def _import_own() -> None:
    for module in pkgutil.iter_modules(dynet_jax.export.__path__, "dynet_jax.export."):
        importlib.import_module(module.name)


_FORMATS: Registry[ExportFormat] = Registry("export format", own=_import_own)


def register_export_format(
    name: str,
    *,
    help: str = "",
    options: Mapping[str, Option] | None = None,
    suffix: str | None = None,
    check: Callable[[], object] = lambda: None,
    any_network: bool = False,
) -> Callable[[Writer], Writer]:
    """Decorator of a function (model, name of the network, **options) -> bytes: `dynet export --format=NAME` calls it.

    The model is a `dynet_jax.inference.InferenceModel` with a program, in JAX; with `any_network` it may have a
    `module` instead. `suffix` is that of its files; by default the name.

    >>> @register_export_format("operations", help="the names of a network's operations")
    ... def write(model, network):
    ...     return "\\n".join(operation.name for operation in model.program.operations).encode()
    >>> export_format("operations").help
    "the names of a network's operations"
    >>> del _FORMATS["operations"]
    """

    def register(write: Writer) -> Writer:
        _FORMATS.add(name, ExportFormat(name, help, dict(options or {}), write, suffix or name, check, any_network))
        return write

    return register


def export_formats() -> list[ExportFormat]:
    """Returns all that are registered, by name: those of modules of `dynet_jax.export`, and of plug-ins."""
    return [format for _, format in sorted(_FORMATS.everything().items())]


def export_format(name: str) -> ExportFormat:
    """Returns one of them. Raises UserError for an unknown name."""
    return _FORMATS.find(name)


def program_of(model: InferenceModel) -> Program:
    """Returns the program to export. Raises UserError for a network that programs cannot express."""
    if model.program is None:
        raise UserError("the network has an operation that programs do not have, so that it cannot be exported")
    return model.program


def check_options(format: ExportFormat, names: Mapping[str, Any]) -> None:
    """Raises UserError for an option that the format does not have, with the format that has it."""
    for name in names:
        if name in format.options:
            continue
        owner = next((other.name for other in export_formats() if name in other.options), None)
        if owner is not None:
            raise UserError(f"--{name} is of --format={owner}; leave it out for {format.name}")
        known = suggest(name, format.options) if format.options else "it has none"
        raise UserError(f"{format.name} has no option --{name}; {known}")
