"""The cache of compiled programs on disk, with one-line reports of entries that JAX cannot read or write."""

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
    """Caches compiled programs on disk, so that a run that is started again does not compile again.

    $JAX_COMPILATION_CACHE_DIR names the folder; the default is in ~/.cache/dynet_jax. On CPUs there is one folder per
    kind of processor, because a program compiled for another one may not run. If there can be no such folder, one line
    says so, and nothing is cached.
    """
    where = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if where == "" or "://" in (where or ""):  # no cache, or one that only JAX can reach
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
    """Shows JAX's warnings about the cache in one line, and other warnings as before.

    JAX does not write an entry where a file exists, so a truncated entry would be compiled again at every start. It is
    therefore removed before JAX has compiled the program.
    """
    found = FAILED.match(str(message))
    if not found:
        return show(message, *rest, **options)
    action, program, reason = found.groups()
    if action == "writing":
        return _say_once(reason)
    removed = _remove_damaged(folder, program)
    what = "it is compiled again" if removed else "remove it if this happens again"
    warn(f"{program} in {folder} cannot be read ({one_line(reason, limit=200)}); {what}")


def _remove_damaged(folder: Path, program: str) -> int:
    """Removes truncated entries of a program. Returns their number."""
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
        f"compiled programs cannot be cached and are compiled again at the next start ({one_line(reason, limit=200)}); "
        "set $JAX_COMPILATION_CACHE_DIR to a folder for them"
    )
