"""The line of a user's code that has made an operation of a traced network."""

import sysconfig
from pathlib import Path

import flax
import jax

import dynet_jax

LIBRARIES = tuple(f"{Path(package.__file__).parent}/" for package in (jax, flax))
STANDARD = f"{sysconfig.get_path('stdlib')}/"
OWN = f"{Path(dynet_jax.__file__).parent}/"


def line_of(equation) -> str:
    """Returns 'file:line: ' of the innermost call outside of JAX, Flax and this package, or '' if there is none."""
    traceback = equation.source_info.traceback
    frames = [] if traceback is None else traceback.frames
    frames = [frame for frame in frames if not frame.file_name.startswith((*LIBRARIES, STANDARD)) or _is_site(frame)]
    frames = [frame for frame in frames if not frame.file_name.startswith((*LIBRARIES, "<"))]
    own = [frame for frame in frames if not frame.file_name.startswith(OWN)] or frames
    return f"{own[0].file_name}:{own[0].line_num}: " if own else ""


def _is_site(frame) -> bool:
    """Installed packages lie within the standard library's folder, and are not of it."""
    return "site-packages" in frame.file_name or "dist-packages" in frame.file_name
