"""Packed class folders: the folder's records and batches, complete or absent, and no damage without a message."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dynet_jax import cli
from dynet_jax.data import CorruptImages, load_source
from dynet_jax.data.augment import make_training_transform
from dynet_jax.data.contents import describe
from dynet_jax.data.loading import read_record
from dynet_jax.data.matching import matched
from dynet_jax.data.pack import pack_folder
from dynet_jax.errors import UserError
from tests.bucket_server import bucket_server
from tests.data.images import encoded, textured
from tests.data.test_corrupt import assert_same, train

AUGMENT = make_training_transform(16, "random_resized_crop", flip=True)


@pytest.fixture
def folder(tmp_path):
    """Class folders of 30 training and 6 test images, one of them broken."""
    root = tmp_path / "images"
    for number in range(36):
        split = "train" if number < 30 else "val"
        path = root / split / ("ant", "bee", "cat")[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(textured(40, 50, seed=number), "JPEG", quality=95))
    (root / "train/bee/4.jpg").write_bytes(b"broken")
    return root


def prepare(*arguments):
    return cli.main(["prepare", *map(str, arguments)])


@pytest.mark.parametrize("shard_bytes", [2**28, 10_000])
def test_packed_is_the_folder_record_by_record(folder, tmp_path, shard_bytes):
    assert pack_folder(folder, tmp_path / "packed", shard_bytes)
    shards = sorted(path.name for path in (tmp_path / "packed").glob("train-*"))
    count = len(shards)
    assert shards == [f"train-{n:05}-of-{count:05}.array_record" for n in range(count)]
    assert (count == 1) == (shard_bytes == 2**28)
    for split in ("train", "test"):
        packed, source = load_source(f"packed:{tmp_path / 'packed'}", split), load_source(f"folder:{folder}", split)
        assert packed.class_names == source.class_names == ["ant", "bee", "cat"]
        assert len(packed) == len(source) == {"train": 30, "test": 6}[split]
        for index in range(len(source)):
            record = source[index]
            assert packed[index] == record._replace(name=os.path.relpath(record.name, folder))
    assert_same(
        train(load_source(f"packed:{tmp_path / 'packed'}", "train"), transform=AUGMENT),
        train(load_source(f"folder:{folder}", "train"), transform=AUGMENT),
    )


def test_the_command(folder, tmp_path, capsys):
    packed = tmp_path / "packed"
    assert prepare(f"folder:{folder}", f"--data-dir={packed}") == 0
    printed = capsys.readouterr()
    line = f"packed into {packed}: 30 train, 6 test images of 3 classes; "
    line += f"train with --config.data.name=packed:{packed}\n"
    assert printed.out == line
    assert re.search(r"packing train: 100%.* 30/30 \[\S+<\S+, .*images/s\]", printed.err)  # done, time left, rate
    before = {path.name: path.stat().st_mtime_ns for path in packed.iterdir()}
    assert prepare(f"folder:{folder}", f"--data-dir={packed}") == 0  # once more: says so, and writes nothing
    assert capsys.readouterr().out == f"already {line}"
    assert {path.name: path.stat().st_mtime_ns for path in packed.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "packed"]


def test_counts_are_told_where_they_are_known(folder, tmp_path):
    """Earlier versions wrote none."""
    packed = tmp_path / "packed"
    pack_folder(folder, packed)
    source = load_source(f"packed:{packed}", "train")
    assert describe({"train": source}) == ["data: 3 classes, 30 train images (10 a class)"]
    description = json.loads((packed / "dataset.json").read_text())
    for split in description["splits"].values():
        del split["counts"]
    (packed / "dataset.json").write_text(json.dumps(description))
    source = load_source(f"packed:{packed}", "train")
    assert describe({"train": source}) == ["data: 3 classes, 30 train images"]
    assert matched(source, ["bee", "cat", "ant"], "D", "W")[0].label == 2
    assert not pack_folder(folder, packed)


def test_nothing_is_overwritten(folder, tmp_path, capsys):
    packed = tmp_path / "packed"
    pack_folder(folder, packed)
    (folder / "train/ant/new.jpg").write_bytes(b"another image")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for target, message in {
        packed: "is a packed dataset of other images than",
        tmp_path / "notes": "exists, and is not a packed dataset",
        tmp_path / "file": "exists, and is not a packed dataset",
    }.items():
        assert prepare(f"folder:{folder}", f"--data-dir={target}") == cli.FAILED
        assert message in capsys.readouterr().err
    assert (tmp_path / "notes/thesis.tex").read_text() == "years of work"
    assert len(load_source(f"packed:{packed}", "train")) == 30
    (tmp_path / "other.incomplete").mkdir()
    (tmp_path / "other.incomplete/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"other\.incomplete/thesis\.tex is in the way"):
        pack_folder(folder, tmp_path / "other")
    assert (tmp_path / "other.incomplete/thesis.tex").exists()


@pytest.mark.parametrize("arguments", [["folder:nowhere", "--data-dir=x"], ["folder:.", "--data-dir="], ["folder:"]])
def test_mistakes_are_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare(*arguments) == cli.FAILED
    assert capsys.readouterr().err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_failure_leaves_nothing(folder, tmp_path):
    (folder / "train/cat/29.jpg").unlink()
    (folder / "train/cat/29.jpg").symlink_to("/proc/self/mem")  # a file that cannot be read
    with pytest.raises(OSError, match="Input/output error"):
        pack_folder(folder, tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


KILLED = """
import os, sys
from pathlib import Path
from dynet_jax.data import pack

write, written = pack._write_shard, []
def write_slowly(*arguments):
    write(*arguments)
    written.append(1)
    if len(written) == 3:
        print("three", flush=True)
        sys.stdin.read()
pack._write_shard = write_slowly
pack.pack_folder(Path(sys.argv[1]), Path(sys.argv[2]), shard_bytes=10_000)
"""


@pytest.mark.slow
def test_killed_and_begun_again(folder, tmp_path):
    packed = tmp_path / "packed"
    command = [sys.executable, "-c", KILLED, str(folder), str(packed)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "three\n"
    with pytest.raises(UserError, match=r"another process is writing .*packed\.incomplete"):
        pack_folder(folder, packed)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert not packed.exists()
    assert len(list((tmp_path / "packed.incomplete").iterdir())) == 3
    for left in ("packed", "packed.incomplete"):
        with pytest.raises(UserError, match=r"is not a packed dataset: it has no dataset\.json; make one of"):
            load_source(f"packed:{tmp_path / left}", "train")
    assert pack_folder(folder, packed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "packed"]
    assert len(load_source(f"packed:{packed}", "train")) == 30


@pytest.mark.slow
def test_damaged_records_are_replaced_and_named(folder, tmp_path, capsys):
    """One bit is flipped in each of many places of a shard; the checksums detect it wherever it matters."""
    packed = tmp_path / "packed"
    pack_folder(folder, packed)
    (shard,) = packed.glob("train-*")
    content = shard.read_bytes()
    expected = [load_source(f"packed:{packed}", "train")[index] for index in range(30)]
    harmed = 0
    for position in range(40, len(content), len(content) // 60):
        changed = bytearray(content)
        changed[position] ^= 8
        shard.write_bytes(changed)
        source = load_source(f"packed:{packed}", "train")
        unreadable = []
        for index in range(30):
            try:
                record = source[index]
            except OSError:
                unreadable.append(index)
            else:
                assert record == expected[index]
        if len(unreadable) == 30:  # the index of the shard
            with pytest.raises(UserError, match="none of the images can be used"):
                train(source, 1)
        elif unreadable:
            harmed += 1
            corrupt = CorruptImages()
            train(source, 3, transform=AUGMENT, batch_size=30, corrupt=corrupt)
            assert corrupt.names == {"train/bee/4.jpg", *(f"{packed}/train/{index}" for index in unreadable)}
    assert harmed > 20  # the rest of the file is padding
    assert f"{packed}/train/" in capsys.readouterr().err


def test_an_incomplete_copy_is_refused(folder, tmp_path):
    packed = tmp_path / "packed"
    pack_folder(folder, packed)
    (shard,) = packed.glob("test-*")
    content = shard.read_bytes()
    for damage in (lambda: shard.write_bytes(content[:70_000]), shard.unlink):
        damage()
        load_source(f"packed:{packed}", "train")
        with pytest.raises(UserError, match=rf"array_record has \d+ bytes instead of {len(content)}; copy or prepare"):
            load_source(f"packed:{packed}", "test")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: text.replace("dynet_jax packed images", "something else"),
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: json.dumps({**json.loads(text), "splits": {}}),
    ],
    ids=["cut", "a list", "another format", "another version", "no splits"],
)
def test_a_strange_description_is_refused(folder, tmp_path, change):
    path = tmp_path / "packed/dataset.json"
    pack_folder(folder, path.parent)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match="is not the description of a packed dataset that can be read here"):
        load_source(f"packed:{path.parent}", "train")


def test_time_to_open_does_not_grow_with_the_shards_that_are_read(folder, tmp_path):
    """Shards are opened when they are first read; the content of an unread one does not matter."""
    packed = tmp_path / "packed"
    pack_folder(folder, packed, shard_bytes=10_000)
    last = sorted(packed.glob("train-*"))[-1]
    last.write_bytes(bytes(last.stat().st_size))
    start = time.perf_counter()
    source = load_source(f"packed:{packed}", "train")
    assert source[0].label == 0
    assert time.perf_counter() - start < 1
    with pytest.raises(OSError, match=r".+"):
        source[29]
    np.testing.assert_equal(len(source), 30)


def test_packed_in_a_bucket_is_the_folder_record_by_record(folder, tmp_path):
    assert prepare(f"folder:{folder}", f"--data-dir={tmp_path / 'packed'}") == 0
    server, name = bucket_server(), f"packed/{tmp_path.name}"
    server.put(tmp_path / "packed", name)
    for split in ("train", "test"):
        local, remote = (load_source(f"packed:{at}", split) for at in (tmp_path / "packed", f"gs://bucket/{name}"))
        assert [local[index] for index in range(len(local))] == [remote[index] for index in range(len(remote))]
        assert remote.class_names == local.class_names
    cut = next(shard for shard in server.names(name) if "train" in shard)
    server.replace(cut, server.read(cut)[:-1])
    with pytest.raises(UserError, match=f"gs://bucket/{cut} has .* bytes instead of"):
        load_source(f"packed:gs://bucket/{name}", "train")
    server.refusal = (403, "denied")  # no other image takes the place of one that may not be read
    try:
        with pytest.raises(UserError, match="permission is missing"):
            read_record(remote, 0)
    finally:
        server.reset()
    with pytest.raises(UserError, match=r"gs://bucket/nothing is not a packed dataset: it has no dataset\.json"):
        load_source("packed:gs://bucket/nothing", "train")
