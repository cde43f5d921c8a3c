"""What a user adds: modules that register networks, datasets, export formats or runtimes when they are imported.

A module is named by `--import=FILE`, by the environment variable DYNET_JAX_IMPORT (which processes inherit, so that
workers have the same networks as the command that starts them), or by an installed package, as an entry point of the
group "dynet_jax.plugins".
"""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from dynet_jax.errors import UserError, named, suggest

GROUP, VARIABLE = "dynet_jax.plugins", "DYNET_JAX_IMPORT"

_imported: list[str] = []  # what --import and the variable name: absolute paths of files, and names of modules
_missing: dict[Path, list[str]] = {}  # {work directory: what it was made with that is not imported here}
_loaded = False


def import_plugins(names: Iterable[str]) -> None:
    """Import files or modules, here and in all processes that are started from here on.

    names: 'my_networks.py', or 'my_package.networks' for a module that Python finds.
    Raises UserError for one that is not there, cannot be imported, or has the name of another module.
    """
    load_plugins()
    for name in names:
        name = str(Path(name).expanduser().resolve()) if name.endswith(".py") or "/" in name else name
        if name in _imported:
            continue
        _import(name)
        _imported.append(name)
        os.environ[VARIABLE] = os.pathsep.join(_imported)


def load_plugins() -> None:
    """Import what installed packages and the environment variable name, once in a process. Raises UserError."""
    global _loaded
    if _loaded:
        return
    _loaded = True  # first: a module that is imported here may ask for a network
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist else entry.value
            raise UserError(f"the installed {package} cannot be imported as a plug-in: {named(error)}") from error
    import_plugins([name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name])


def imported_plugins() -> list[str]:
    """Files, by their absolute paths, and modules, in the order of their import."""
    return list(_imported)


def expect_plugins(workdir: Path, names: Sequence[str]) -> None:
    """Note which modules a work directory was made with, for the message about a network or dataset that is unknown.

    They are not imported here: which code runs is for the user to say, not for a file that may come from elsewhere. A
    file may lie in another place than it did.
    """
    known = {Path(name).stem for name in _imported}
    _missing[workdir] = [f"--import={name}" for name in names if Path(name).stem not in known]


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not registered: which --import is missing, or else the close names."""
    hints = [f"{workdir} was made with {' '.join(names)}; add it" for workdir, names in _missing.items() if names]
    return UserError(f"unknown {what}; {'; '.join(hints) or suggest(name, known)}")


def _import(name: str) -> None:
    file = Path(name) if name.endswith(".py") or os.sep in name else None
    if file is not None and not (file.is_file() and file.suffix == ".py"):
        raise UserError(f"--import: there is no Python file {name}")
    module = name if file is None else file.stem
    if file is not None and str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # stays: worker processes find there what a source of records is made of
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if file is not None and (found is None or found.origin is None or Path(found.origin).resolve() != file):
        raise UserError(f"--import: {name} cannot be imported as {module!r}, which is another module; rename the file")
    if found is None:
        raise UserError(f"--import: there is no module {module!r}; name a file as my_networks.py")
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a user's file does wrong
        raise UserError(f"--import: {name} cannot be imported: {_where(error, found.origin)}{named(error)}") from error


def _where(error: Exception, file: str | None) -> str:
    """'line 7: ', of the file if the error passed through it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    lines += [error.lineno] if isinstance(error, SyntaxError) and error.filename == file else []
    return f"line {lines[-1]}: " if lines else ""
