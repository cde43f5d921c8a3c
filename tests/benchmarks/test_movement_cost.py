"""The benchmark times two programs that differ in the measurement alone."""

import re

import pytest

from benchmarks import movement_cost

TINY = [
    "--config.model.width=0.125",
    "--config.batch_size=8",
    "--config.bn_batch_size=8",
    "--config.data.image_size=16",
]


@pytest.mark.slow
def test_ratios_of_turns(capsys):
    assert movement_cost.main(["configs/dy_resnet18.py:digits", "--turns=4", *TINY]) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(r"with the measurement / without: \d\.\d{4} \(quartiles .*\)\n", printed.out)
    assert printed.err.count("ratio") == 4
