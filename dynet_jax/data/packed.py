"""Class folders packed into a few large ArrayRecord files by `dynet prepare folder:PATH`: the format, and its reader.

A packed dataset is a directory of shards and one dataset.json, which exists only if everything is complete:

    {"format": "dynet_jax packed images", "version": 1, "classes": ["cat", "dog"],
     "splits": {"train": {"examples": 9, "listing": "sha256 of names and sizes",
                          "shards": [{"file": "train-00000-of-00001.array_record", "examples": 9, "bytes": 131072}],
                          "counts": {"cat": 4, "dog": 5}}}}

Earlier versions wrote no counts.
A record is msgpack: {"image": the bytes of the file, "label": its class, "name": "train/cat/1.jpg"}.
"""

import dataclasses
import json
from pathlib import Path

import msgpack
from array_record.python.array_record_data_source import ArrayRecordDataSource

from dynet_jax.bucket import size_of, unless_failed
from dynet_jax.data.contents import Contents
from dynet_jax.data.record import Record
from dynet_jax.data.source import register_dataset
from dynet_jax.errors import UserError

DESCRIPTION = "dataset.json"
FORMAT, VERSION = "dynet_jax packed images", 1
SPLITS = ("train", "test")


class PackedSource:
    """One split ('train' or 'test') of a packed dataset. Raises UserError for another or an incomplete folder."""

    def __init__(self, folder: Path, split: str):
        description = read_description(folder)
        self.class_names = description["classes"]
        self.name = f"{folder}/{split}"
        shards = description["splits"][split]["shards"]
        self.contents = Contents(split, description["splits"][split].get("counts", {}))
        for shard in shards:
            path = folder / shard["file"]
            size = size_of(path)
            if size != shard["bytes"]:
                raise UserError(f"{path} has {size} bytes instead of {shard['bytes']}; copy or prepare {folder} again")
        self._records = ArrayRecordDataSource(
            [_Shard(str(folder / shard["file"]), 0, shard["examples"], shard["examples"]) for shard in shards]
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        try:
            return Record(**msgpack.unpackb(self._records[index]))
        except (RuntimeError, ValueError, TypeError) as error:  # for example a wrong checksum
            raise unless_failed(error, self.name) from error

    def name_of(self, index: int) -> str:
        return f"{self.name}/{index}"


@register_dataset("packed:DIR", from_bucket=True)
def _open(split: str, data_dir: str | None, folder: Path) -> PackedSource:
    return PackedSource(folder, split)


@dataclasses.dataclass
class _Shard:
    """The fields that ArrayRecordDataSource needs, so that it opens a file only when it reads from it."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def read_description(folder: Path) -> dict:
    """Returns the content of dataset.json. Raises UserError, with advice, if it is missing or of another format."""
    path = folder / DESCRIPTION
    if not path.exists():
        raise UserError(
            f"{folder} is not a packed dataset: it has no {DESCRIPTION}; "
            f"make one of class folders by `dynet prepare folder:PATH --data-dir={folder}`"
        )
    try:
        description = json.loads(path.read_text())
        if (description["format"], description["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {description['format']!r}, version {description['version']!r}")
        for split in SPLITS:
            if sum(shard["examples"] for shard in description["splits"][split]["shards"]) <= 0:
                raise ValueError(f"no images in {split!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the description of a packed dataset that can be read here: {error}") from error
    return description
