"""The README's Python runs as it stands, one block after the other."""

import re
from pathlib import Path

import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


@pytest.mark.slow
def test_blocks():
    names = {}
    for code in BLOCKS:
        exec(code, names)
    assert names["y"].shape == (8, 16, 16, 64)
    assert names["logits"].shape == (1, 1000)
    assert list(names["maps"]) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert names["maps"]["stage4"].shape == (1, 8, 8, 256)


def test_there_are_blocks():
    assert len(BLOCKS) == 3


@pytest.mark.slow
def test_the_network_of_the_page_on_segmentation():
    page = (Path(__file__).parents[1] / "docs" / "segmentation.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert names["logits"].shape == (1, 12, 16, 11)
