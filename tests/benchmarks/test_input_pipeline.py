"""The benchmark of the input pipeline runs at a tiny size and prints what it promises."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import input_loaders, input_pipeline
from tests.data.images import encoded, textured


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.JPEG").write_bytes(encoded(textured(40 + number, 60), "JPEG"))
    return tmp_path


@pytest.mark.parametrize("name", ["training_batches", "PIL"])
def test_loaders_give_batches_of_crops(folder, name):
    files = sorted(folder.iterdir())
    batch = next(input_loaders.LOADERS[name](files, 4, 24))
    assert (batch.shape, batch.dtype) == ((4, 24, 24, 3), np.uint8)
    assert batch.std() > 10


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to a core, by Linux's call")
def test_table_has_a_row_per_loader(folder, capsys, monkeypatch):
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    file = folder / "table.md"
    names = ["decode and crop", "training_batches", "PIL"]
    options = ["--repeats=2", "--images=8", "--batch=4", "--image-size=24", f"--markdown={file}"]
    before = os.sched_getaffinity(0)
    input_pipeline.main([str(folder), f"--loaders={','.join(names)}", *options])
    printed = capsys.readouterr().out
    assert printed == file.read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line][2:]
    assert [row[0] for row in rows] == names
    assert rows[0][-2:] == ["100 %", "-"]
    for row in rows:
        low, high = map(float, row[2].split(" to "))
        assert 0 < low <= float(row[1]) <= high
        assert float(row[3]) > 0
    assert os.sched_getaffinity(0) == before  # only the loaders are pinned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "argument folder: no images below nowhere"),
        ([".", "--loaders=dali"], "argument --loaders: unknown name 'dali'; choose from"),
        ([".", "--batch=0"], "argument --batch: must be a positive int"),
    ],
)
def test_wrong_arguments_get_one_clear_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        input_pipeline.main(arguments)
    assert message in capsys.readouterr().err
