"""The table of what smaller banks change has a row for each variant, and the first is what they are compared with."""

import re

import pytest

from benchmarks import inference_accuracy
from dynet_jax.data import load_source
from tests.inference.test_programs import needs_compiler
from tests.inference.workdirs import make_workdir


@needs_compiler
@pytest.mark.slow
def test_table(tmp_path, capsys):
    classes = load_source("digits", "test").class_names
    workdir = make_workdir(tmp_path / "digits", classes, size=16, resize_to=16, dataset="digits")
    assert inference_accuracy.main([str(workdir)]) == 0
    printed = capsys.readouterr().out
    assert "dy_mobile on 359 test images of digits, 16 px" in printed
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if re.match(r"\| (j|n)", line)
    ]
    assert [tuple(row[:3]) for row in rows] == list(inference_accuracy.VARIANTS)
    top1, same, difference = zip(*([float(cell or 0) for cell in row[3:]] for row in rows))
    assert (same[0], difference[0]) == (100, 0)
    assert (same[3], difference[3] < 1e-4) == (100, True)  # the native engine in float32
    assert min(same) > 60
    assert max(abs(value - top1[0]) for value in top1) < 20


def test_a_mistake_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        inference_accuracy.main([str(tmp_path)])
    assert "is not a work directory of train.py" in capsys.readouterr().err
