"""The README's Python runs as it stands."""

import re
from pathlib import Path

import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_block(code):
    names = {}
    exec(code, names)
    if "logits" in names:
        assert names["logits"].shape == (1, 1000)
    else:
        assert names["y"].shape == (8, 16, 16, 64)


def test_there_are_blocks():
    assert len(BLOCKS) == 2
