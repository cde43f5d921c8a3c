"""The README's Python runs as it stands, one block after the other."""

import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynet_jax
from dynet_jax.analysis import count_macs
from dynet_jax.ops.backend import tracing_for

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.slow
def test_blocks():
    names = {}
    for code in BLOCKS:
        exec(code, names)
    assert names["y"].shape == (8, 16, 16, 64)
    assert names["logits"].shape == (1, 1000)


@pytest.mark.slow
def test_the_backbone_of_the_page_on_networks():
    page = (Path(__file__).parents[1] / "docs" / "networks.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert list(names["maps"]) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert names["maps"]["stage4"].shape == (1, 8, 8, 256)


def test_there_are_blocks():
    assert len(BLOCKS) == 2


def test_every_local_link_leads_to_a_file():
    for target in re.findall(r"\]\(([^)#:]+)", README.read_text()):
        assert (README.parent / target).exists(), target


@pytest.mark.slow
def test_multiply_adds_of_the_table():
    """In millions, of everything: `name` NUMBER."""
    table = README.read_text().partition("## Networks")[2].partition("```")[0]
    found = dict(re.findall(r"`(\w+)` (\d+)", table))
    assert len(found) == 17
    for name, millions in found.items():
        total = count_macs(dynet_jax.create_model(name), (224, 224, 3)).total
        assert round(total / 1e6) == int(millions), name


@pytest.mark.slow
def test_the_network_of_the_page_on_segmentation():
    page = (Path(__file__).parents[1] / "docs" / "segmentation.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert names["logits"].shape == (1, 12, 16, 11)


@pytest.mark.slow
def test_networks_and_layers_of_the_page_on_ones_own():
    page = (Path(__file__).parents[1] / "docs" / "own_networks.md").read_text()
    first, second, *of_nnx = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"__name__": "own"}
    for code in of_nnx:
        exec(code, names)
    assert names["logits"].shape == (2, 10)
    assert names["trained"].logits(np.zeros((1, 20, 30, 3), np.uint8)).shape == (1, 10)
    assert "Scan" not in {node.op_type for node in names["onnx_model"].graph.node}
    exec(first, names)
    exec(second, names)
    assert names["y"].shape == (2, 16, 16, 8)
    images = jnp.ones((4, 32, 32, 3))
    for name, dynamic in (("dy_separable", True), ("separable", False)):
        model = dynet_jax.create_model(name, num_classes=10, small_input=True)
        shapes = jax.eval_shape(lambda x, m=model: m.init_with_output(jax.random.key(0), x, train=True), images)
        assert shapes[0].shape == (4, 10)
        assert ("predictor" in shapes[1]["params"]["stage1_block1"]) == dynamic
        with tracing_for("tpu", "TPU v5 lite"):
            again = jax.eval_shape(lambda x, m=model: m.init_with_output(jax.random.key(0), x, train=True), images)
        chex.assert_trees_all_equal_shapes(again, shapes)
