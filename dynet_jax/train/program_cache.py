"""Compiled programs on the disk, and entries that cannot be read or written: JAX warns of them, and leaves them."""

import contextlib
import functools
import glob
import os
import re
import warnings
import zlib
from pathlib import Path

import jax

from dynet_jax.console import warn
from dynet_jax.errors import UserError, named, one_line
from dynet_jax.machine import cache_folder

FAILED = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.*?)': (.*)", re.DOTALL)


def use_compilation_cache() -> None:
    """Keep compiled programs on the disk, so that a run that is started again does not compile again.

    $JAX_COMPILATION_CACHE_DIR says where, else it is ~/.cache/dynet_jax. On CPUs the folder is one per kind of
    processor, because a program compiled for another one may not run. Where there can be no such folder one line says
    so, and nothing is kept.
    """
    where = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if where == "" or "://" in (where or ""):  # none, or one that JAX alone can reach
        return
    try:
        folder = Path(where) if where else cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, UserError) as error:
        _say_once(error if isinstance(error, UserError) else named(error))
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if where is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
    warnings.showwarning = functools.partial(_answer, folder, warnings.showwarning)


def _answer(folder: Path, show, message, *rest, **options) -> None:
    """Says JAX's warnings of the cache in one line, and others as before.

    An entry that a crash or a full disk has cut short would be compiled again at every start: JAX does not write where
    there is a file. So it goes away before JAX has compiled it.
    """
    found = FAILED.match(str(message))
    if not found:
        return show(message, *rest, **options)
    action, program, reason = found.groups()
    if action == "writing":
        return _say_once(reason)
    removed = _remove_damaged(folder, program)
    what = "it is compiled anew" if removed else "remove what is there if this comes again"
    warn(f"{program} in {folder} cannot be read ({one_line(reason, limit=200)}); {what}")


def _remove_damaged(folder: Path, program: str) -> int:
    """How many entries of a program were no whole archives."""
    removed = 0
    for entry in folder.glob(f"{glob.escape(program)}-*-cache"):
        try:
            zlib.decompress(entry.read_bytes())
        except (OSError, zlib.error):
            with contextlib.suppress(OSError):
                entry.unlink()
                removed += 1
    return removed


@functools.cache
def _say_once(reason) -> None:
    warn(
        f"compiled programs cannot be kept, and are compiled again at the next start ({one_line(reason, limit=200)}); "
        "name a folder for them as $JAX_COMPILATION_CACHE_DIR"
    )
