"""The argument types of all commands, and the answer to a mistake: one line and an exit code."""

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynet_jax.bucket import key, place
from dynet_jax.errors import UserError
from dynet_jax.memory import OutOfMemory, explained, is_out_of_memory, memory_cause
from dynet_jax.pretrained import SCHEME, is_pretrained

FAILED, INTERRUPTED = 2, 130  # 130 is 128 + SIGINT, as in a shell
# The modules that extras of pyproject.toml install; the layer and the networks need none of them.
EXTRAS = {
    "train": (
        *("PIL", "absl", "array_record", "cv2", "grain", "importlib_resources", "matplotlib"),
        *("ml_collections", "msgpack", "scipy", "sklearn", "tensorboardX", "tensorflow_datasets", "tqdm"),
    ),
    "export": ("flatbuffers", "onnx"),
    "gcs": ("gcsfs", "google"),
    "prepare": ("tensorflow",),
}


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line instead of the usage."""

    def error(self, message: str):
        self.exit(FAILED, f"{self.prog}: {message}; see {self.prog} --help\n")


def extra_with(module: str) -> str | None:
    """The extra of this package that installs a module; None for a module of none.

    >>> extra_with("grain"), extra_with("onnx.helper"), extra_with("no_such_module")
    ('train', 'export', None)
    """
    package = module.partition(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if package in packages), None)


def report_mistakes(program: str, run: Callable[[], int | None], less_memory: Callable[[], str] = str) -> int:
    """Returns the exit code of `run`. A mistake becomes one line; a bug keeps its traceback.

    less_memory: returns advice for a command that can use less memory.
    """
    code = FAILED
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as for stderr: file names need not be valid text
    try:
        return run() or 0
    except UserError as error:
        cause = None if isinstance(error, OutOfMemory) else memory_cause(error)
        code, message = error.exit_code, explained(cause, less_memory()) if cause else str(error)
    except KeyboardInterrupt:
        code, message = INTERRUPTED, "interrupted"
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (extra := extra_with(error.name or "")):
            message = f'this needs the package {error.name}: pip install "dynet_jax[{extra}]"'
        elif is_out_of_memory(error):
            message = explained(error, less_memory())
        elif isinstance(error, OSError) and (error.filename is not None or error.errno is not None):
            message = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        else:
            raise
    print(f"{program}: {message}", file=sys.stderr)
    return code


def add_imports(parser: argparse.ArgumentParser) -> None:
    """Adds --import, which every command has."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file, or an installed module, that registers networks, datasets, export formats or runtimes of "
        "your own (CONTRIBUTING.md)",
    )


def path_argument(text: str) -> Path:
    """Returns a path. Rejects an empty one, from an unset shell variable, which would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    if "://" in text:  # a Path would make it a local folder called gs:, which is lost with the machine
        raise argparse.ArgumentTypeError(f"{text} is an address, not a folder; mount it as docs/tpu.md describes")
    return Path(text)


def workdir_argument(text: str) -> Path:
    """Returns a work directory: a folder, a path in a bucket, or that of a network of the package."""
    if "://" not in text and not text.startswith(("gs:/", SCHEME)):
        return path_argument(text)
    try:
        path = place(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not is_pretrained(path) and not key(path):
        example = f"{text.rstrip('/')}/runs/digits"
        raise argparse.ArgumentTypeError(f"{text} is a whole bucket; name a path in it, like {example}")
    return path


def overrides(rest: list[str]) -> list[str]:
    """Returns the arguments that no parser knows. Raises UserError unless all set keys of the configuration."""
    for argument in rest:
        if not argument.startswith("--config.") or "=" not in argument:
            raise UserError(f"cannot read {argument!r}; set a key as --config.KEY=VALUE, or see --help")
    return rest


def list_argument(text: str, read: Callable[[str], Any] = str, example: str = "A,B") -> list:
    """Returns [read('a'), read('b')] for 'a,b'. Raises an error for repetitions."""
    found = [read(word.strip()) for word in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list like {example}, with each once")
    return found


def positive_argument(text: str) -> int:
    """Returns a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
