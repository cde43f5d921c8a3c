"""The figures for a slice of TPUs: the arithmetic against hand-made programs, and the compiler if it is installed."""

import functools
import importlib.util
import json
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest

from dynet_jax.cli import main
from dynet_jax.compiled import steps as compiled_steps
from dynet_jax.compiled.program import Collective, CompiledProgram, find_collectives, read_program
from dynet_jax.compiled.report import UNKNOWN, report
from dynet_jax.compiled.roofline import estimate
from dynet_jax.compiled.steps import Steps
from dynet_jax.compiled.traced import traced_kernels
from dynet_jax.errors import UserError
from dynet_jax.ops import backend, choose_fusion, dynamic_conv
from dynet_jax.tpu import kernels
from dynet_jax.tpu.bundles import count_cycles
from dynet_jax.tpu.chips import CHIPS, HOP_SECONDS, parse_topology

HLO = """
  %all-reduce.1 = (f32[320]{0:T(512)S(1)}, bf16[8,4]{1,0:T(8,128)}) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}
  %gather = f32[16,4]{1,0} all-gather-start(%c), channel_id=3, replica_groups=[2,8]<=[16], dimensions={0}
  %done = f32[16,4]{1,0} all-gather-done(%gather)
  %sum.2 = pred[7] all-reduce(%d), replica_groups={}
  %element = f32[320]{0} get-tuple-element(%all-reduce.1), index=0
"""


BUNDLES = """
= control target key start
LB: loop body
     0   :  { %s0 = smov 0 }
   0x1 LB: > { %s5_s1 = sphi %s4_s1, %s6_s1 /* phi :: iteration index, stage = 1 */ }
   0x2   : > { %v1 = vld [vmem:[%s5_s1] sm:$0xff] }
   0x3 LB: >> { %s7_s2 = sphi %s1_s2, %s8_s2 /* phi */ }
   0x4 LB: >>> { %s9_s3 = sphi %s1_s3, %s10_s3 /* phi */  ;;  %p2_p2 = scmp.ge.s32.totalorder %s10_s3, 3 /* loop exit test */ }
   0x5   :  {}
   0x6   : >>> { %p3 = scmp.ge.s32.totalorder (%p2_p2), %s8_s2, 4 /* loop exit test */ }
   0x7   : >> { %v2 = vadd %v1 }
   0x8   :  { %v3 = vadd %v1 }
   0x9 LB: >> { %s11_s4 = sphi %s1_s4, %s12_s4 /* phi */ }
   0xa   : >> { %p4 = scmp.ge.s32.totalorder %s12_s4, 2 /* loop exit test */ }
   0xb   : > { %p5 = scmp.ge.s32.totalorder %s6_s1, 10 /* loop exit test */ }
   0xc   :  { %s13 = ssub 1 }
"""  # noqa: E501


def test_bundles_are_counted_as_often_as_their_loops_run():
    """A grid of 8 has 10 rounds, the first and the last of which only load and store."""
    outside, grid, first, inner, second = 3, 10 * 3, 8 * 4 * 2, 8 * 4 * 3 * 3, 8 * 2 * 2
    assert count_cycles(BUNDLES) == outside + grid + first + inner + second


def test_a_program_that_does_not_fit_says_what_needs_less():
    step = mock.Mock()
    step.lower.side_effect = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 43 GB")
    advice = r"use more devices, a smaller --config\.batch_size, or --config\.accumulation_steps$"
    with pytest.raises(UserError, match=r"does not fit in the 16 GB of a device of v5e:4x4 .*; " + advice):
        compiled_steps._compile(step, (), parse_topology("v5e:4x4"), mock.Mock())


def program(**values) -> CompiledProgram:
    defaults = dict.fromkeys(CompiledProgram._fields, 0) | {"collectives": (), "rounds": 1}
    return CompiledProgram(**(defaults | values))


def test_collectives_are_found_with_their_sizes_and_groups():
    assert find_collectives(HLO, devices=16) == (
        Collective("all-reduce", 320 * 4 + 32 * 2, 2),
        Collective("all-gather", 256, 8),
        Collective("all-reduce", 7, 16),
    )


def test_a_program_says_what_it_is():
    x = jax.ShapeDtypeStruct((64, 32), np.float32)
    compiled = jax.jit(lambda a: a @ a.T).lower(x).compile()
    facts = read_program(compiled)
    assert facts.flops == pytest.approx(2 * 64 * 64 * 32, rel=0.01)
    assert (facts.arguments, facts.outputs) == (64 * 32 * 4, 64 * 64 * 4)
    assert facts.memory >= facts.arguments + facts.outputs
    assert facts.collectives == ()


@pytest.mark.parametrize(
    ("topology", "chips", "links", "hops"),
    [
        ("v5e:1x1", 1, 0, 0),
        ("v5e:2x2", 4, 2, 2),  # a line of two in both directions
        ("v5e:16x16", 256, 4, 30),  # a torus
        ("v5e:4x16", 64, 3, 18),  # a ring of sixteen, a line of four
        ("v5p:4x4x8", 128, 6, 13),
        ("v5p:2x4x4", 32, 3, 7),  # no torus: 2 is no multiple of 4
    ],
)
def test_slices(topology, chips, links, hops):
    slice = parse_topology(topology)
    assert (slice.chips, slice.hops) == (chips, hops)
    assert slice.all_reduce_bandwidth == links * slice.chip.link_bandwidth


def test_the_published_figures_agree_with_one_another():
    """Peak = 2 x matrix units x size^2 x clock; the pod's all-reduce bandwidth = what all links of all chips send."""
    for kind, units in {"v4": 8, "v5e": 4, "v5p": 8}.items():
        assert CHIPS[kind].flops == pytest.approx(2 * units * 128**2 * CHIPS[kind].clock, rel=0.01)
    for topology, bandwidth in {"v5e:16x16": 51.2e12, "v6e:16x16": 102.4e12, "v4:16x16x16": 1.1e15}.items():
        slice = parse_topology(topology)
        assert slice.all_reduce_bandwidth * slice.chips == pytest.approx(bandwidth, rel=0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5:2x2", "choose from: v4, v5e, v5p, v6e"),
        ("v5e", "has 2 axes, like v5e:2x2"),
        ("v5e:2x2x2", "has 2 axes"),
        ("v4:2x2", "has 3 axes, like v4:2x2x2"),
        ("v5e:0x2", "has 2 axes"),
        ("v5e:axb", "has 2 axes"),
    ],
)
def test_topologies_that_do_not_exist(text, message):
    with pytest.raises(UserError, match=message):
        parse_topology(text)


def test_the_roofline_is_the_longest_and_then_the_exchange():
    slice = parse_topology("v5e:2x2")
    sums = Collective("all-reduce", 100_000_000, 4)
    times = estimate(program(flops=197e12 / 2, bytes=819e9 / 4, cycles=1_500_000, collectives=(sums,)), slice)
    assert (times.compute, times.memory, times.schedule) == pytest.approx((0.5, 0.25, 0.001))
    # Twice three quarters of it through two links of 50 GB/s, and there and back over two hops.
    assert times.exchange == pytest.approx(2 * (0.1e9 * 3 / 4 / 100e9 + 2 * HOP_SECONDS))
    assert times.step == pytest.approx(0.5 + times.exchange)
    assert times.bound == "compute"
    in_parts = estimate(program(flops=1e12, bytes=1e9, cycles=1_500_000, rounds=4), slice)
    assert (in_parts.compute, in_parts.schedule) == pytest.approx((4 * 1e12 / 197e12, 0.004))
    assert estimate(program(bytes=1e9, cycles=150_000_000), slice).bound == "schedule"
    assert estimate(program(bytes=1e9), slice).bound == "memory"
    unknown = estimate(program(cycles=1_500_000, kernel_cycles=None), slice)
    assert (unknown.schedule, unknown.kernels) == (None, None)
    with_kernels = estimate(program(cycles=1_500_000, kernel_cycles=3_000_000), slice)
    assert (with_kernels.schedule, with_kernels.kernels) == pytest.approx((0.003, 0.002))
    without_clock = parse_topology("v6e:2x2")
    assert estimate(program(), without_clock).schedule is None
    assert estimate(program(), without_clock).kernels == 0.0  # there are none
    assert estimate(program(kernel_cycles=1), without_clock).kernels is None


def test_other_exchanges_than_sums():
    slice = parse_topology("v5e:2x2")  # two links of 50 GB/s, two hops

    def seconds(kind, size):
        return estimate(program(collectives=(Collective(kind, size, 4),)), slice).exchange

    size, hops = 100_000_000, 2 * HOP_SECONDS
    assert seconds("all-gather", size) == pytest.approx(size * 3 / 4 / 100e9 + hops)
    assert seconds("reduce-scatter", size / 4) == pytest.approx(size * 3 / 4 / 100e9 + hops)  # a quarter stays
    assert seconds("collective-permute", size) == pytest.approx(size / 50e9 + HOP_SECONDS)


def test_an_exchange_that_is_begun_is_counted_once():
    hlo = """
  %gather = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%a), replica_groups=[1,8]<=[8], dimensions={0}
  %permute = (bf16[8]{0}, bf16[8]{0}, u32[], u32[]) collective-permute-start(%b), source_target_pairs={{0,1},{1,0}}
  %sum = (f32[3]{0}, f32[5]{0}) all-reduce-start(%c, %d), replica_groups={{0,1}}
"""
    assert [found.bytes for found in find_collectives(hlo, devices=8)] == [256, 16, 32]


def test_small_slices_are_one_host():
    shapes = {
        name: parse_topology(name).host_shape for name in ("v5e:1x1", "v5e:2x4", "v6e:2x4", "v5e:4x4", "v5p:2x2x1")
    }
    assert shapes == {"v5e:1x1": (1, 1), "v5e:2x4": (2, 4), "v6e:2x4": (2, 4), "v5e:4x4": None, "v5p:2x2x1": (2, 2, 1)}


ONE_HOST = {"hosts": 1, "gradients": 10**7, "statistics": 10**4}


def test_the_report_names_everything_and_compares():
    slice = parse_topology("v5e:2x2")
    steps = Steps(
        program(flops=2e12, bytes=8e9, temporaries=4 * 10**9), program(flops=1e12, bytes=4e9), 256, 64, **ONE_HOST
    )
    lines = report(["a", "b"], [steps, steps._replace(training=program(flops=1e12, bytes=1e9))], slice).splitlines()
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert rows[""] == ["a", "b", "ratio"]
    assert rows["training: bytes moved (GB)"] == ["8", "1", "8.00"]
    assert rows["training: memory (% of the device's)"][0] == "25"
    assert rows["training: exchanges"] == ["none", "none", ""]
    assert rows["evaluation: operations (GFLOP)"] == ["1,000", "1,000", "1.00"]


def test_the_report_marks_what_leaves_kernels_out():
    slice, known = parse_topology("v5e:2x2"), program(flops=1e12, bytes=8.19e9, cycles=15, kernel_cycles=15)
    steps = Steps(known, known, 256, 64, **ONE_HOST)
    unknown = steps._replace(training=known._replace(kernel_cycles=None))
    text = report(["a", "b"], [unknown, steps], slice)
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()[:-2]
    }
    assert rows["training: of it Pallas kernels (ms)"] == ["?", "1e-05", ""]
    assert rows["training: step, at best (ms)"] == ["10?", "10", ""]
    assert rows["evaluation: step, at best (ms)"] == ["10", "10", "1.00"]
    assert text.endswith(UNKNOWN)
    assert "?" not in report(["a"], [steps], slice)


def test_tracing_for_another_backend_ends_where_it_ends():
    shape = (6, 3, 3, 6, 96)
    with backend.tracing_for("tpu"):
        assert backend.target_backend() == "tpu"
        assert choose_fusion(shape, batch=64, backend=backend.target_backend()) == "feature"
    assert backend.target_backend() == "cpu"


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is there")
def test_without_the_compiler_it_says_how_to_get_it(capsys):
    assert main(["compile-tpu", "configs/dy_mobile.py"]) == 2
    assert "make env-tpu" in capsys.readouterr().err


def kernels_of(x_shape, bank_shape, **options) -> list:
    shapes = x_shape, bank_shape, (x_shape[0], bank_shape[0], bank_shape[-1])
    with backend.tracing_for("tpu", "TPU v5 lite"), traced_kernels() as traced:
        arrays = [jax.ShapeDtypeStruct(shape, "bfloat16") for shape in shapes]
        jax.make_jaxpr(functools.partial(dynamic_conv, **options))(*arrays)
    return traced


@pytest.mark.parametrize(
    ("x_shape", "bank_shapes", "options"),
    [
        (
            (16, 8, 8, 12),
            [(6, 3, 3, 12, 16)] * 2,
            [{"strides": 2, "padding": padding} for padding in ("SAME", "TORCH")],
        ),
        ((16, 8, 8, 12), [(6, 3, 3, 2, 12), (6, 1, 3, 6, 12)], [{"feature_group_count": groups} for groups in (6, 2)]),
    ],
    ids=["padding", "window"],
)
def test_kernels_of_the_same_shapes_are_told_apart(x_shape, bank_shapes, options, monkeypatch, capsys):
    first, second = (kernels_of(x_shape, bank, **more) for bank, more in zip(bank_shapes, options))
    [call] = {kernels._key_of(kernel) for kernel in first + second}
    assert len(kernels.programs_by_call(first + first, [call])[call]) == 1
    assert len(kernels.programs_by_call(first + second, [call])[call]) == 2

    hlo = "hlo"
    monkeypatch.setattr(kernels, "find_kernels", lambda text: {hlo: [call, call]}[text])
    monkeypatch.setattr(kernels, "_count", lambda programs, slice: iter([100, 30][: len(programs)]))
    slice = parse_topology("v5e:1x1")
    assert kernels.kernel_cycles(hlo, first, slice) == 200
    assert kernels.kernel_cycles(hlo, first + second, slice) is None
    assert "stands for kernels of 30 and 100 cycles" in capsys.readouterr().err
    monkeypatch.setattr(kernels, "_count", lambda programs, slice: iter([100, 100]))
    assert kernels.kernel_cycles(hlo, first + second, slice) == 200


KERNELS = """
import jax, jax.numpy as jnp
from dynet_jax.ops import dynamic_conv
from dynet_jax.ops.backend import tracing_for
from dynet_jax.compiled.traced import traced_kernels
from dynet_jax.tpu.chips import parse_topology
from dynet_jax.tpu.devices import slice_devices
from dynet_jax.tpu.kernels import kernel_cycles

def cycles(batch, size):
    slice = parse_topology("v5e:1x1")
    sharding = jax.sharding.SingleDeviceSharding(slice_devices(slice)[0])
    shapes = (batch, size, size, 128), (6, 3, 3, 128, 128), (batch, 6, 128)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in shapes]
    twice = lambda x, *rest: dynamic_conv(dynamic_conv(x, *rest), *rest)
    with tracing_for("tpu"), traced_kernels() as kernels:
        compiled = jax.jit(twice).lower(*arrays).compile()
    return kernel_cycles(compiled.as_text(), kernels, slice)

print(cycles(64, 14), cycles(128, 14), cycles(64, 28))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: make test-tpu")
def test_kernels_take_time_by_images_and_positions():
    """No less than the matrix units need, and in proportion."""
    result = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    cycles, more_images, larger = map(int, result.stdout.splitlines()[-1].split())
    least = 2 * 64 * 14**2 * 9 * 128**2 / (4 * 128**2)  # two layers; four units of 128 x 128
    assert least < cycles < 10 * least
    assert more_images == pytest.approx(2 * cycles, rel=0.1)
    assert 2 * cycles < larger < 4 * cycles  # kernels are fused as often


COMPILE = """
import json, sys
from dynet_jax.tpu.chips import parse_topology
from dynet_jax.tpu.compiler import compile_for
from tests.train import tiny_run

config = tiny_run.get_config()
config.batch_size, config.bn_batch_size, config.dtype = 2048, 64, "bfloat16"
steps = compile_for(config, parse_topology(sys.argv[1]))
print(json.dumps([sorted(p.collectives_by_kind) for p in steps[:2]] + [steps.images_per_device, steps.hosts]))
print(json.dumps([steps.training.flops, steps.training.bytes, steps.training.cycles, steps.training.memory]))
print(json.dumps([steps.undue_exchanges, steps.gradients, steps.training.collectives_by_kind["all-reduce"][1]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: make test-tpu")
@pytest.mark.parametrize(
    ("topology", "images", "hosts"),
    [("v5e:2x2", 512, 1), ("v5e:16x16", 8, 64), ("v4:2x2x1", 512, 1), ("v6e:2x4", 256, 1)],
)
def test_the_real_steps_compile_and_exchange_sums_only(topology, images, hosts):
    """It runs in a separate process, because with libtpu installed JAX would look for a TPU."""
    result = subprocess.run([sys.executable, "-c", COMPILE, topology], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    kinds, facts, sums = map(json.loads, result.stdout.splitlines()[-3:])
    assert kinds == [["all-reduce"], ["all-reduce"], images, hosts]
    assert min(facts) > 0
    undue, gradients, summed = sums
    assert undue < 256  # bytes, of metrics and votes
    assert gradients <= summed
