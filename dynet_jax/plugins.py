"""Plug-ins: modules that register networks, datasets, export formats or runtimes when they are imported.

A module is named by `--import=FILE`, by the environment variable DYNET_JAX_IMPORT (which child processes inherit, so
that workers have the same networks as the command that starts them), or by an installed package, as an entry point of
the group "dynet_jax.plugins".
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

_imported: list[str] = []  # named by --import and the variable: absolute paths of files, and names of modules
_missing: dict[Path, list[str]] = {}  # {work directory: modules that it was made with and that are not imported here}
_loaded = False


def import_plugins(names: Iterable[str]) -> None:
    """Imports files or modules, here and in all processes that are started later.

    names: 'my_networks.py', or 'my_package.networks' for a module that Python finds.
    Raises UserError for one that does not exist, cannot be imported, or has the name of another module.
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
    """Imports the modules of installed packages and of the environment variable, once per process. Raises UserError."""
    global _loaded
    if _loaded:
        return
    _loaded = True  # set first, because an imported module may itself look up a network
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist else entry.value
            raise UserError(f"the installed {package} cannot be imported as a plug-in: {named(error)}") from error
    import_plugins([name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name])


def imported_plugins() -> list[str]:
    """Returns absolute paths of files, and names of modules, in the order of their import."""
    return list(_imported)


def expect_plugins(workdir: Path, names: Sequence[str]) -> None:
    """Records the modules that a work directory was made with, for the message about an unknown network or dataset.

    They are not imported here: the user decides which code runs, not a file that may come from elsewhere. A file may
    have been moved.
    """
    known = {Path(name).stem for name in _imported}
    _missing[workdir] = [f"--import={name}" for name in names if Path(name).stem not in known]


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """Returns the error for an unregistered name, with the missing --import or else with similar names."""
    hints = [f"{workdir} was made with {' '.join(names)}; add it" for workdir, names in _missing.items() if names]
    return UserError(f"unknown {what}; {'; '.join(hints) or suggest(name, known)}")


def _import(name: str) -> None:
    file = Path(name) if name.endswith(".py") or os.sep in name else None
    if file is not None and not (file.is_file() and file.suffix == ".py"):
        raise UserError(f"--import: there is no Python file {name}")
    module = name if file is None else file.stem
    if file is not None and str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # permanent, because worker processes need it to unpickle a source of records
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
    except Exception as error:  # a user's file may raise anything
        raise UserError(f"--import: {name} cannot be imported: {_where(error, found.origin)}{named(error)}") from error


def _where(error: Exception, file: str | None) -> str:
    """Returns 'line 7: ', the line of the file, if the error passed through it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    lines += [error.lineno] if isinstance(error, SyntaxError) and error.filename == file else []
    return f"line {lines[-1]}: " if lines else ""
