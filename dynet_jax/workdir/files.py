"""The small files of a work directory: its configuration, classes and data, and the lock of the run that uses it."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import ml_collections

from dynet_jax import bucket
from dynet_jax.config.keys import KEYS
from dynet_jax.config.load import check_config, flatten_whole
from dynet_jax.config.recipe import RECIPES
from dynet_jax.errors import UserError, named
from dynet_jax.plugins import expect_plugins, imported_plugins
from dynet_jax.pretrained import SCHEME, is_pretrained
from dynet_jax.workdir.changes import check_changes

CONFIG_FILE, LABELS_FILE, IMAGES_FILE, LOCK_FILE = "config.json", "labels.json", "images.json", ".lock"
IMPORTS_FILE = "imports.json"  # the modules of --import


def lock(workdir: Path, busy: str | None = None) -> IO:
    """Creates the directory and locks it until the returned file is closed or the process ends.

    Raises UserError if another run is using it (with the message `busy`), or if it cannot be created. On a file system
    without locks, it does not exclude others.
    """
    if is_pretrained(workdir):
        name = f"{SCHEME}{workdir.name}"
        raise UserError(f"{name} is only read; use another --workdir, with --init_from={name} to start from it")
    with _writing(workdir):
        file = (workdir / LOCK_FILE).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        busy = busy or f"another run is using {workdir}; wait until it has ended, or use another --workdir"
        raise UserError(busy) from error
    except OSError:
        pass
    return file


def claim(
    workdir: Path,
    config: ml_collections.ConfigDict,
    class_names: list[str],
    images: Mapping[str, int] | None = None,
    *,
    allow_change: bool = False,
) -> list[str]:
    """Creates the directory, or ensures that it belongs to a run like this one.

    `images` are numbers: another number of training images means another order of them, so it counts as a changed
    configuration.

    The files are written if nothing has been saved yet. Otherwise call `record` once a checkpoint has been restored, so
    that a configuration that does not fit leaves no trace.

    Returns the changed keys that determine what is trained. Raises UserError, before anything is written, if another
    run's checkpoints would be continued or overwritten, or if config.json is not train.py's. With `allow_change` a
    changed configuration is reported and accepted, except for keys that may never change.
    """
    has_checkpoints = any(workdir.glob("checkpoints/*"))
    before, now, changed = {}, {}, []
    if (workdir / CONFIG_FILE).exists():
        before, now = flatten_whole(read_config(workdir)), flatten_whole(config)
        if images is not None and (workdir / IMAGES_FILE).exists():
            before, now = before | _read_json(workdir / IMAGES_FILE), now | dict(images)
    if not has_checkpoints:
        record(workdir, config, class_names, images)
    elif before:
        changed = check_changes(workdir, before, now, allowed=allow_change)
        if (workdir / LABELS_FILE).exists() and read_class_names(workdir) != class_names:
            raise UserError(
                f"{workdir} was trained on other classes than {config.data.name} has; use another --workdir"
            )
    else:
        raise UserError(
            f"{workdir} has checkpoints and no {CONFIG_FILE}, so it is unknown what they were trained with; put "
            "that file back, or use another --workdir"
        )
    return changed


def record(
    workdir: Path,
    config: ml_collections.ConfigDict,
    class_names: list[str],
    images: Mapping[str, int] | None = None,
) -> None:
    """Writes config.json, labels.json, images.json, and imports.json if modules are imported.

    Raises UserError if that is not possible.
    """
    with _writing(workdir):
        write_whole(workdir / CONFIG_FILE, json.dumps(config.to_dict(), indent=2))
        write_whole(workdir / LABELS_FILE, json.dumps(class_names))
        if images is not None:
            write_whole(workdir / IMAGES_FILE, json.dumps(dict(images)))
        if imported_plugins():
            write_whole(workdir / IMPORTS_FILE, json.dumps(imported_plugins()))


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """Returns the configuration of a work directory. Raises UserError if it is not one.

    A key that the run's version did not know has the recipe's value, which is what that version used.
    """
    with bucket.told(workdir):
        return _read_config(workdir)


def _read_config(workdir: Path) -> ml_collections.ConfigDict:
    path = workdir / CONFIG_FILE
    if not path.exists():
        bucket.check_access(workdir)
        raise UserError(
            f"{workdir} is not a work directory of train.py: it has no {CONFIG_FILE}; `train.py --config=FILE "
            f"--workdir={workdir}` or `dynet import-torch` makes one"
        )
    if (workdir / IMPORTS_FILE).exists():
        expect_plugins(workdir, _read_json(workdir / IMPORTS_FILE))
    try:
        config = ml_collections.ConfigDict(_completed(json.loads(path.read_text())))
        check_config(config)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a configuration of train.py: {error}") from error
    return config


def read_class_names(workdir: Path) -> list[str]:
    """Returns the class names in the order of the network's outputs. Raises UserError if they are missing."""
    return _read_json(workdir / LABELS_FILE)


def _read_json(path: Path) -> Any:
    try:
        with bucket.told(path):
            return json.loads(path.read_text())
    except UserError:
        raise  # of the bucket, not of the file
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); train.py writes it when it starts") from error


def _completed(saved: dict) -> dict:
    task = saved.get("task", "classification")
    KEYS["task"].check(task)
    recipe = RECIPES[task]("").to_dict()
    if saved.get("temperature_from") is None:
        saved = {**saved, "temperature_epochs": recipe["temperature_epochs"]}  # earlier versions ignored the value
    return {**recipe, **saved, "data": {**recipe["data"], **saved["data"]}, "model": {"remat": False, **saved["model"]}}


@contextlib.contextmanager
def _writing(workdir: Path) -> Iterator[None]:
    """A context in which the directory exists, and a write error becomes a UserError."""
    try:
        with bucket.told(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            yield
    except OSError as error:
        reason = error.strerror or named(error)
        raise UserError(f"the work directory {workdir} cannot be written: {reason}") from error


def write_whole(path: Path, text: str) -> None:
    """Writes a file atomically."""
    if bucket.is_bucket(path):  # objects are always written atomically
        bucket.write(path, f"{text}\n".encode())
        return
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)
