"""Means of sums, and the file that keeps them through crashes and restarts."""

import io
import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from dynet_jax.tasks.sums import means
from dynet_jax.train.metrics import MetricWriter
from dynet_jax.workdir.metrics import read_metrics


def test_means_weigh_batches_by_their_examples():
    sums = [
        {"loss": jnp.float32(8.0), "top1": jnp.float32(1.0), "examples": jnp.float32(4.0)},
        {"loss": jnp.float32(1.0), "top1": jnp.float32(1.0), "examples": jnp.float32(1.0)},
    ]
    assert means(sums) == pytest.approx({"loss": 9 / 5, "top1": 2 / 5})


def test_what_is_written_can_be_read(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (10, 20):
        writer.write(step, "train", {"loss": 1 / step, "top1": 0.5})
    writer.write(20, "test", {"loss": 7.0})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl", "train") == [
        {"step": 10, "kind": "train", "loss": 0.1, "top1": 0.5},
        {"step": 20, "kind": "train", "loss": 0.05, "top1": 0.5},
    ]
    assert read_metrics(tmp_path / "metrics.jsonl", "test") == [{"step": 20, "kind": "test", "loss": 7.0}]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_only_one_process_writes(tmp_path):
    writer = MetricWriter(tmp_path, enabled=False)
    writer.write(1, "train", {"loss": 1.0})
    writer.close()
    assert list(tmp_path.iterdir()) == []
    assert read_metrics(tmp_path / "metrics.jsonl", "train") == []


def test_a_resumed_run_replaces_the_steps_it_does_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [(10, 1.0), (20, 2.0), (30, 3.0), (20, 2.5), (30, 3.5), (40, 4.5)]
    path.write_text("".join(json.dumps({"step": s, "kind": "train", "loss": v}) + "\n" for s, v in rows))
    got = [(row["step"], row["loss"]) for row in read_metrics(path, "train")]
    assert got == [(10, 1.0), (20, 2.5), (30, 3.5), (40, 4.5)]


@pytest.mark.parametrize("cut", [1, 2, 10, 38])
def test_a_line_cut_by_a_crash_is_passed_over(tmp_path, cut):
    writer = MetricWriter(tmp_path)
    for step in (1, 2):
        writer.write(step, "train", {"loss": 0.25 * step})
    writer.close()
    content = writer.path.read_bytes()
    writer.path.write_bytes(content[:-cut])
    whole = 2 if cut == 1 else 1  # the first character to go is the line's end
    assert [row["step"] for row in read_metrics(writer.path, "train")] == [1, 2][:whole]
    # The run that goes on does the step again, and another one.
    writer = MetricWriter(tmp_path)
    for step in (2, 3):
        writer.write(step, "train", {"loss": 0.25 * step})
    writer.close()
    rows = read_metrics(writer.path, "train")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.25), (2, 0.5), (3, 0.75)]


class FullDisk(io.FileIO):
    """A file of a disk that has room for some bytes more, and then for none."""

    room = 0

    def write(self, data):
        if not FullDisk.room:
            raise OSError(28, "No space left on device")
        data = bytes(data)[: FullDisk.room]
        FullDisk.room -= len(data)
        return super().write(data)


@pytest.mark.parametrize("room", [0, 1, 30, 47])  # of a line of 48 bytes
def test_what_a_full_disk_refuses_leaves_nothing_and_is_written_later(tmp_path, monkeypatch, capsys, room):
    writer = MetricWriter(tmp_path)
    writer.write(1, "train", {"loss": 3.0})
    before = writer.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(FullDisk, "room", room)
        patch.setattr(Path, "open", lambda path, mode="r", buffering=-1: FullDisk(path, mode))
        writer.write(2, "train", {"loss": 2.0, "top1": 0.25})
        writer.write(3, "train", {"loss": 1.0})
    assert writer.path.read_bytes() == before
    assert "metrics of step 2 could not be written (No space left on device)" in capsys.readouterr().err
    writer.write(4, "train", {"loss": 0.5})
    writer.close()
    lines = writer.path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def row(step):
    return json.dumps({"step": step, "kind": "test", "loss": 1.0})


BROKEN = ('{"step": 7, "ki', "\0" * 20, "3", '{"step": 1}{"step', "\udcff\udcfe")


@pytest.mark.parametrize("broken", BROKEN, ids=["cut", "zeros", "no row", "two at once", "no text"])
def test_broken_lines_are_passed_over_and_removed_when_a_run_goes_on(tmp_path, capsys, broken):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{row(1)}\n{broken}\n{row(2)}\n{broken}", errors="surrogateescape")
    assert [found["step"] for found in read_metrics(path, "test")] == [1, 2]
    assert [found["step"] for found in read_metrics(path, "test")] == [1, 2]
    assert capsys.readouterr().err == f"WARNING: {path} contains lines that are not metrics (1); they are skipped\n"
    MetricWriter(tmp_path).close()
    assert path.read_text() == f"{row(1)}\n{row(2)}\n"
    assert "had broken lines, truncated by a crash or a full disk; removed: 2" in capsys.readouterr().err


def test_a_broken_end_is_removed_on_a_disk_that_is_still_full(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{row(1)}\n{{"step"')
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: pytest.fail("it needs room"))
    MetricWriter(tmp_path).close()
    assert path.read_text() == f"{row(1)}\n"


def test_what_is_being_written_is_no_broken_line(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{row(1)}\n{{"step"')
    assert [found["step"] for found in read_metrics(path, "test")] == [1]
    assert capsys.readouterr().err == ""


def test_tensorboard_begins_another_file_after_a_full_disk(tmp_path, monkeypatch, capsys):
    from tensorboardX.event_file_writer import EventsWriter

    def full(self):
        raise OSError(28, "No space left on device")

    writer = MetricWriter(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(EventsWriter, "flush", full)
        for step in range(30):  # more than a queue would hold
            writer.write(step, "train", {"loss": 1.0})
    assert "No space left on device" in capsys.readouterr().err
    writer.write(30, "train", {"loss": 1.0})
    writer.close()
    assert [row["step"] for row in read_metrics(writer.path, "train")] == list(range(31))
    assert any(path.stat().st_size > 0 for path in (tmp_path / "tensorboard").glob("events*"))
