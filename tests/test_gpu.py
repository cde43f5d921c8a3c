"""What is said about GPUs: the arithmetic against hand-made programs, and the compiler where it is."""

import json
import re
import subprocess
import sys

import pytest

from dynet_jax.cli import main
from dynet_jax.compiled.program import Collective, CompiledProgram
from dynet_jax.compiled.report import report
from dynet_jax.compiled.roofline import estimate
from dynet_jax.compiled.steps import Steps
from dynet_jax.errors import UserError
from dynet_jax.gpu.cards import CARDS, HOP_SECONDS, parse_node, target_config
from dynet_jax.gpu.devices import has_compiler
from dynet_jax.gpu.library_calls import TRITON, find_library_calls

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs the compiler: make test-gpu-compiler")

HLO = """
ENTRY %main (x: bf16[8,16,16,32]) -> bf16[8,16,16,64] {
  %x = bf16[8,16,16,32]{3,2,1,0} parameter(0)
  %w = bf16[64,3,3,8]{3,2,1,0} parameter(1)
  %dy.1 = bf16[8,16,16,64]{3,2,1,0} parameter(2)
  %a = f32[5,128,256]{2,1,0} parameter(3)
  %b = f32[5,256,64]{2,1,0} parameter(4)
  %pair = (bf16[8,16,16,32]{3,2,1,0}, bf16[64,3,3,8]{3,2,1,0}) tuple(%x, %w)
  %y = (bf16[8,16,16,64]{3,2,1,0}, u8[128]{0}) custom-call(%x, %w), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, feature_group_count=4, custom_call_target="__cudnn$convForward"
  %dx = (bf16[8,16,16,32]{3,2,1,0}, u8[0]{0}) custom-call(%dy.1, %w), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, feature_group_count=4, custom_call_target="__cudnn$convBackwardInput"
  %dw = (bf16[64,3,3,8]{3,2,1,0}, u8[0]{0}) custom-call(%x, %dy.1), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, feature_group_count=4, custom_call_target="__cudnn$convBackwardFilter"
  %product = (f32[5,128,64]{2,1,0}, s8[4]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"]}}}
  ROOT %own = bf16[4]{0} custom-call(%pair, %a), custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="f"}
}
"""


def test_calls_of_libraries_have_the_operations_and_bytes_of_their_shapes():
    forward, inputs, filters, product, own = find_library_calls(HLO)
    convolution = 2 * (8 * 16 * 16 * 64) * (3 * 3 * 8)
    assert [call.flops for call in (forward, inputs, filters)] == [convolution] * 3
    x, w, y = (2 * number for number in (8 * 16 * 16 * 32, 64 * 9 * 8, 8 * 16 * 16 * 64))
    assert (forward.bytes, inputs.bytes, filters.bytes) == (x + w + y + 128, x + w + y, x + w + y)
    assert (product.target, product.flops) == ("__cublas$gemm", 2 * 5 * 128 * 64 * 256)
    assert (own.target, own.flops, own.bytes) == (TRITON, 0.0, x + w + 4 * 5 * 128 * 256 + 8)


@pytest.mark.parametrize(("kind", "operations"), [("a100", 2048), ("l4", 1024)])
def test_the_published_figures_agree_with_one_another(kind, operations):
    """Peak = cores x clock x the operations of a core's matrix units in a cycle."""
    card = CARDS[kind]
    assert card.flops == pytest.approx(card.cores * 1e9 * card.clock_ghz * operations, rel=0.01)


@pytest.mark.parametrize("kind", CARDS)
def test_what_the_compiler_is_told_of_a_card(kind):
    text, card = target_config(CARDS[kind]), CARDS[kind]
    assert text.count("{") == text.count("}")
    values = dict(re.findall(r"(\w+): (\d+)\b", text))
    assert int(values["core_count"]) == card.cores
    assert int(values["memory_bandwidth"]) == pytest.approx(card.memory_bandwidth)
    assert (int(values["shared_memory_per_core"]), int(values["shared_memory_per_block_optin"])) == (
        card.block_shared_bytes + 1024,
        card.block_shared_bytes,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h1000", 1), "did you mean h100"),
        (("tpu", 1), "choose from: a100, b200, h100, h200, l4"),
        (("l4", 9), "1 to 8"),
    ],
)
def test_nodes_that_do_not_exist(arguments, message):
    with pytest.raises(UserError, match=message):
        parse_node(*arguments)


def program(**values) -> CompiledProgram:
    defaults = dict.fromkeys(CompiledProgram._fields, 0) | {"collectives": (), "library_calls": (), "rounds": 1}
    return CompiledProgram(**(defaults | values))


def test_the_roofline_is_the_longest_and_then_a_ring_of_cards():
    node, sums = parse_node("h100", 8), Collective("all-reduce", 100_000_000, 8)
    times = estimate(program(flops=989.4e12 / 2, bytes=3352.32e9 / 4, collectives=(sums,)), node)
    assert (times.compute, times.memory, times.schedule) == pytest.approx((0.5, 0.25, None))
    assert times.exchange == pytest.approx(2 * 7 * (100e6 / 8 / 450e9 + HOP_SECONDS))
    assert times.step == pytest.approx(0.5 + times.exchange)
    alone = Collective("all-reduce", 100_000_000, 1)
    assert estimate(program(collectives=(alone,)), parse_node("h100")).exchange == 0.0


def test_the_report_has_no_schedule_but_calls_of_libraries():
    steps = Steps(
        program(bytes=8e9, library_calls=(("cublas$gemm", 7), ("cudnn$convForward", 2))),
        program(bytes=4e9),
        *(256, 64),
        hosts=1,
        gradients=10**7,
        statistics=10**4,
    )
    text = report(["a"], [steps], parse_node("a100", 4))
    rows = dict(re.findall(r"\| (\S.*?) +\| (\S.*?) +\|", text))
    assert rows["devices, hosts"] == "4 a100, 1"
    assert rows["training: calls of libraries"] == "7 cublas$gemm, 2 cudnn$convForward"
    assert rows["evaluation: calls of libraries"] == "none"
    assert "schedule" not in text


@pytest.mark.skipif(has_compiler(), reason="the compiler is there")
def test_without_the_compiler_it_says_how_to_get_it(capsys):
    assert main(["compile-gpu", "configs/dy_mobile.py"]) == 2
    assert "make env-gpu-compiler" in capsys.readouterr().err


COUNT = """
import json, sys
import jax, jax.numpy as jnp
from dynet_jax.gpu.cards import parse_node
from dynet_jax.gpu.counts import count
from dynet_jax.gpu.devices import node_devices

device = node_devices(parse_node(sys.argv[1]))[0]
shape = lambda *sizes: jax.ShapeDtypeStruct(
    sizes, jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device))
def layers(x, w, a):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "OHWI", "NHWC")), a @ a
compiled = jax.jit(layers).lower(shape(8, 16, 16, 32), shape(64, 3, 3, 32), shape(2048, 2048)).compile()
print(json.dumps([device.device_kind, *count(compiled, [])]))
"""


def run(code: str, *arguments: str) -> list:
    """What a process of its own prints as its last line: the compiler's settings are those of a process."""
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", CARDS)
def test_a_convolution_and_a_product_are_counted(kind):
    title, flops, moved, kernels, calls = run(COUNT, kind)
    assert (title, kernels) == (CARDS[kind].title, 0)
    assert calls == [["cudnn$convForward", 1]] or sum(number for _, number in calls) == 2  # the product by cuBLAS
    assert flops == pytest.approx(2 * (8 * 16 * 16 * 64) * (9 * 32) + 2 * 2048**3, rel=0.01)
    arrays = 2 * (8 * 16 * 16 * (32 + 64) + 64 * 9 * 32 + 3 * 2048**2)
    assert arrays <= moved < 1.7 * arrays  # what is in between, and cuBLAS's workspace


COMPILE = """
import json, sys
from dynet_jax.gpu.cards import parse_node
from dynet_jax.gpu.compiler import compile_for
from tests.train import tiny_run

config = tiny_run.get_config()
config.batch_size, config.bn_batch_size, config.dtype = 64, 16, "bfloat16"
steps = compile_for(config, parse_node(sys.argv[1], int(sys.argv[2])))
print(json.dumps([
    [sorted(p.collectives_by_kind) for p in steps[:2]], steps.images_per_device, steps.undue_exchanges,
    [steps.training.flops, steps.training.bytes, steps.training.memory], steps.training.kernels,
]))
"""


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kernels", ["0", "1"])
def test_the_real_steps_compile_and_exchange_sums_only(kernels, monkeypatch):
    monkeypatch.setenv("DYNET_JAX_GPU_KERNELS", kernels)
    kinds, images, undue, facts, called = run(COMPILE, "h100", "8")
    assert (kinds, images) == ([["all-reduce"], ["all-reduce"]], 8)
    assert undue < 256  # bytes, of metrics
    assert min(facts) > 0
    assert (called > 0) == (kernels == "1")
