"""Writing class folders as a packed dataset (`dynet_jax.data.packed`), atomically."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgpack
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from dynet_jax.console import say
from dynet_jax.data.contents import check_classes, describe
from dynet_jax.data.folder import FolderSource
from dynet_jax.data.packed import DESCRIPTION, FORMAT, SPLITS, VERSION, read_description
from dynet_jax.errors import UserError, one_line

SHARD_BYTES = 256 * 2**20
# One record per group, for reading in any order; uncompressed, because images are already compressed.
WRITER_OPTIONS = "group_size:1,uncompressed"


def pack_folder(root: Path, target: Path, shard_bytes: int = SHARD_BYTES) -> bool:
    """Packs PATH/train/CLASS/* and PATH/val/CLASS/* into the directory `target`, which must be new or empty.

    Files are written to `target`.incomplete, which is renamed when all of them are complete; the next attempt removes
    the remains of an interrupted one. Images are packed unchanged, without decoding.
    Returns False, and writes nothing, if `target` already holds exactly these images.
    Raises UserError if it holds anything else, and for a folder that cannot be trained on.
    """
    sources = {split: FolderSource(root, split) for split in SPLITS}
    check_classes(sources["train"], str(root))
    for line in describe(sources):
        say(line)
    listings = {split: _listing(source, root) for split, source in sources.items()}
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        _refuse_other_content(target, {split: _digest(listing) for split, listing in listings.items()}, root)
        return False
    with _incomplete(target) as folder:
        splits = {split: _write_split(folder, split, listing, shard_bytes) for split, listing in listings.items()}
        for split, source in sources.items():
            splits[split]["counts"] = dict(source.contents.counts)
        description = {"format": FORMAT, "version": VERSION, "classes": sources["train"].class_names, "splits": splits}
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
        os.replace(folder, target)
    return True


def _listing(source: FolderSource, root: Path) -> list[tuple[Path, str, int, int]]:
    """Returns file, name, label and size in bytes of each record."""
    return [(path, str(path.relative_to(root)), label, path.stat().st_size) for path, label in source.files]


def _digest(listing) -> str:
    return hashlib.sha256(repr([record[1:] for record in listing]).encode()).hexdigest()


def _refuse_other_content(target: Path, digests: dict[str, str], root: Path) -> None:
    if not (target / DESCRIPTION).is_file():
        raise UserError(f"{target} exists, and is not a packed dataset; give another --data-dir")
    present = read_description(target)["splits"]
    if {split: content["listing"] for split, content in present.items()} != digests:
        raise UserError(f"{target} is a packed dataset of other images than {root} has; give another --data-dir")


@contextlib.contextmanager
def _incomplete(target: Path) -> Iterator[Path]:
    """An empty directory beside the target, exclusive to one process. It is removed if the work in it fails."""
    folder = target.with_name(target.name + ".incomplete")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from error
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing {folder}") from None
        left = list(folder.iterdir())
        strange = [path for path in left if path.suffix != ".array_record" and path.name != DESCRIPTION]
        if strange:
            raise UserError(f"{strange[0]} is in the way; move it elsewhere")
        for path in left:
            path.unlink()
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _write_split(folder: Path, split: str, listing, shard_bytes: int) -> dict:
    """Writes the shards of one split. Returns its part of the description."""
    shards = list(_shards(listing, shard_bytes))
    described = []
    with tqdm(total=len(listing), desc=f"packing {split}", unit=" images", mininterval=1) as bar:
        for number, shard in enumerate(shards):
            path = folder / f"{split}-{number:05}-of-{len(shards):05}.array_record"
            try:
                _write_shard(path, shard, bar)
            except RuntimeError as error:  # for example a full disk
                raise UserError(f"{path} cannot be written: {one_line(error, limit=300)}") from error
            described.append({"file": path.name, "examples": len(shard), "bytes": path.stat().st_size})
    return {"examples": len(listing), "listing": _digest(listing), "shards": described}


def _write_shard(path: Path, shard, bar: tqdm) -> None:
    writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
    for file, name, label, _ in shard:
        writer.write(msgpack.packb({"image": file.read_bytes(), "label": label, "name": _readable(name)}))
        bar.update()
    writer.close()


def _readable(name: str) -> str:
    """Returns the name of a file, which need not be UTF-8, as valid text."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _shards(listing, shard_bytes: int) -> Iterator[list]:
    """Yields consecutive records, about `shard_bytes` at a time."""
    ends = itertools.accumulate(record[3] for record in listing)
    for _, group in itertools.groupby(zip(ends, listing), key=lambda pair: (pair[0] - 1) // shard_bytes):
        yield [record for _, record in group]
