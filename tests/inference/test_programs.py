"""Networks as programs: what JAX, the native engine and StableHLO make of them is what the network itself gives."""

import functools
import json
import shutil
import subprocess
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynet_jax
from dynet_jax import list_models
from dynet_jax.errors import UserError
from dynet_jax.export.stablehlo import to_stablehlo
from dynet_jax.inference import InferenceModel, Preprocessing, model, program_of
from dynet_jax.inference.program import Convolution, Elementwise, Normalization
from dynet_jax.inference.record import record
from dynet_runtime import build, library
from tests.inference.networks import NAMES, PIXELS, SIZE, assert_same, expected, images, network, normalized

no_compiler = not any(map(shutil.which, ("c++", "g++", "clang++")))
needs_compiler = pytest.mark.skipif(no_compiler, reason="needs a C++ compiler")


def inference_model(name, **options):
    return InferenceModel(network(name)[2], Preprocessing(SIZE, SIZE, **PIXELS), NAMES, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models(task="classification"))
def test_every_network_in_jax(name):
    """At another size than the one that it was recorded with, odd and not square."""
    assert_same(inference_model(name, runtime="jax").logits(images(3, 65, 96)), expected(name, 3, 65, 96))


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", list_models(task="classification"))
def test_every_network_natively(name, threads):
    """Two batches of other sizes, and an image alone."""
    model = inference_model(name, runtime="native", threads=threads)
    for shape in ((3, 65, 96), (5, 33, 47)):
        assert_same(model.logits(images(*shape)), expected(name, *shape))
    assert_same(model.logits(images(3, 65, 96)[1:2]), expected(name, 3, 65, 96)[1:2])


SOFTMAX = dynet_jax.CoefficientSpec(group_size=3, activation="softmax", hidden_features=4)
PREDICTORS = {"normalize_pooled": True, "annealed": True, "hidden_divisor": 4, "min_hidden_features": 3}
LIMITED = {"pooled_limit": 0.5}  # of networks with random statistics, which most pooled features exceed


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["jax", pytest.param("native", marks=needs_compiler)])
@pytest.mark.parametrize("name", ["dy_mobile", "dy_cnn_resnet18"])  # a predictor for each block, and for each layer
def test_every_option_of_predictors(name, runtime):
    _, _, program = network(name, **PREDICTORS)
    assert not {operation.name for operation in program.operations if "predictor/norm" in operation.name}
    inference = InferenceModel(program, Preprocessing(SIZE, SIZE, **PIXELS), NAMES, runtime=runtime)
    assert_same(inference.logits(images(3, 65, 96)), expected(name, 3, 65, 96, **PREDICTORS))


@pytest.mark.parametrize("runtime", ["jax", pytest.param("native", marks=needs_compiler)])
@pytest.mark.parametrize("name", ["dy_mobile", "dy_cnn_resnet18"])
def test_limits_of_pooled_features(name, runtime):
    _, _, program = network(name, **LIMITED)
    inference = InferenceModel(program, Preprocessing(SIZE, SIZE, **PIXELS), NAMES, runtime=runtime)
    assert_same(inference.logits(images(3, 65, 96)), expected(name, 3, 65, 96, **LIMITED))
    assert np.abs(expected(name, 3, 65, 96, **LIMITED) - expected(name, 3, 65, 96)).max() > 1e-2


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dy_mobile", "dy_resnet18", "dy_shuffle", "dy_mobilenet_v3_small"])
def test_every_size_natively_and_in_jax(name):
    native, in_jax = (inference_model(name, runtime=runtime) for runtime in ("native", "jax"))
    for shape in ((1, 224, 224), (3, 225, 193), (1, 512, 512), (1, 32, 400)):
        assert_same(native.logits(images(*shape)), expected(name, *shape))
        assert_same(in_jax.logits(images(*shape)), expected(name, *shape))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dy_mobile", "dy_resnet18", "dy_shuffle", "mobilenet_v3_small", "dy_cnn_resnet18"])
def test_stablehlo_for_any_batch_and_size(name):
    exported = to_stablehlo(inference_model(name, runtime="jax"))
    again = jax.export.deserialize(exported.serialize())
    for shape in ((1, 64, 64), (3, 65, 96)):
        outputs = again.call(images(*shape))
        assert_same(outputs["logits"], expected(name, *shape))
        np.testing.assert_allclose(np.sum(outputs["probabilities"], axis=-1), 1, rtol=1e-5)


RUN_ALONE = """
import json, sys
import jax, numpy as np
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
outputs = exported.call(np.load(sys.argv[2]))
assert not {"dynet_jax", "flax"} & set(sys.modules)
print(json.dumps({**json.loads(bytes(np.asarray(outputs["metadata"]))), "logits": outputs["logits"].tolist()}))
"""


@pytest.mark.slow
def test_an_exported_file_runs_without_this_package_and_without_flax(tmp_path):
    (tmp_path / "x.stablehlo").write_bytes(to_stablehlo(inference_model("dy_mobile", runtime="jax")).serialize())
    np.save(tmp_path / "images.npy", images(1, 65, 96))
    command = [sys.executable, "-c", RUN_ALONE, "x.stablehlo", "images.npy"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    said = json.loads(result.stdout)
    assert_same(np.asarray(said["logits"]), expected("dy_mobile", 1, 65, 96))
    assert said["class_names"] == NAMES
    assert (said["preprocessing"]["image_size"], said["preprocessing"]["mean"]) == (SIZE, list(PIXELS["mean"]))


def test_nothing_is_left_to_fold():
    """In evaluation a block is its predictor and its convolutions."""
    _, _, program = network("dy_mobile")
    kinds = [type(operation) for operation in program.operations]
    assert Normalization not in kinds
    assert Elementwise not in kinds
    assert kinds.count(Convolution) == 11  # a stem, 3 blocks of three, a head
    model, variables, _ = network("dy_mobile")
    assert len(record(model, variables, SIZE).operations) > 2 * len(kinds)


class Own(nn.Module):
    """A user's network, of this package's layers and Flax's."""

    last: str = "relu"
    gate: bool = False
    features: int = 6

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(x)  # before any convolution
        x = nn.relu(nn.Conv(8, (3, 3), strides=2, padding="VALID")(x))
        y = dynet_jax.DynamicConv(8, (3, 3), spec=SOFTMAX)(x)
        x = nn.silu(x + dynet_jax.BatchNorm(use_running_average=not train)(y))
        x = jnp.concatenate([x[..., :3], nn.hard_sigmoid(x)], axis=-1)
        x = x * x[..., 2:3] if self.gate else x * x
        x = (getattr(nn, self.last, None) or getattr(jnp, self.last))(
            nn.Conv(self.features, (1, 1), padding=((1, 0), (0, 2)))(x)
        )
        return nn.Dense(5)(dynet_jax.layers.spatial_mean(x))


def own(**options):
    """(the program of a user's network, images, their logits)"""
    model = Own(**options)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf + 0.1 * rng.uniform(size=leaf.shape), np.float32), variables)
    x = images(2, 19, 16)
    return program_of(model, variables, 16), x, model.apply(variables, x / np.float32(255))


UNIT = Preprocessing(16, 16, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["jax", pytest.param("native", marks=needs_compiler)])
def test_networks_of_users(runtime):
    program, x, wanted = own()
    assert_same(InferenceModel(program, UNIT, runtime=runtime).logits(x), wanted)


@needs_compiler
def test_what_the_engine_cannot_do_it_says():
    program, x, wanted = own(gate=True)
    assert_same(InferenceModel(program, UNIT, runtime="jax").logits(x), wanted)
    with pytest.raises(UserError, match="cannot multiply maps of different channels; use runtime='jax'"):
        InferenceModel(program, UNIT, runtime="native")


def test_an_operation_that_programs_do_not_have_is_named():
    with pytest.raises(UserError, match=r"test_programs.py:\d+: the network has an operation 'sort'"):
        own(last="sort")


@pytest.mark.slow
@pytest.mark.parametrize(("storage", "tolerance"), [("bfloat16", 0.02), ("int8", 0.1)])
@pytest.mark.parametrize("runtime", ["jax", pytest.param("native", marks=needs_compiler)])
def test_smaller_banks_change_little(storage, tolerance, runtime):
    """int8 steps are 1/127 of the largest weight of a kernel's channel, bfloat16 has 8 bits."""
    logits = inference_model("dy_resnet18", runtime=runtime, storage=storage).logits(images(4))
    wanted = expected("dy_resnet18", 4)
    assert not np.allclose(logits, wanted, rtol=1e-5)
    assert_same(logits, wanted, tolerance)


@functools.cache
def in_bfloat16(name, *shape):
    """Logits of the network itself, computed in bfloat16 by JAX."""
    model, variables, _ = network(name)
    apply = jax.jit(lambda v, x: model.clone(dtype=jnp.bfloat16).apply(v, x, train=False))
    return np.asarray(apply(variables, normalized(images(*shape))))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", list_models(task="classification"))
def test_bfloat16_arithmetic_of_every_network(name):
    """It is about as far from float32 as JAX's is: products are summed in float32, and maps rounded, in both."""
    model = inference_model(name, runtime="native", arithmetic="bfloat16")
    shape = 5, 33, 47
    wanted = expected(name, *shape)
    ours = np.abs(model.logits(images(*shape)) - wanted).mean()
    theirs = np.abs(in_bfloat16(name, *shape) - wanted).mean()
    assert 0 < ours < 3 * theirs


@pytest.mark.slow
@needs_compiler
def test_bfloat16_arithmetic_needs_pairs_of_channels():
    with pytest.raises(UserError, match="no convolution of odd numbers of channels in bfloat16 arithmetic"):
        InferenceModel(own(features=7)[0], UNIT, runtime="native", arithmetic="bfloat16")


@needs_compiler
def test_bfloat16_arithmetic_with_small_banks():
    logits = inference_model("dy_resnet18", runtime="native", arithmetic="bfloat16", storage="int8").logits(images(4))
    assert_same(logits, expected("dy_resnet18", 4), tolerance=0.1)


@needs_compiler
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_native_threads_and_batches_give_the_same_bits(arithmetic, monkeypatch):
    """Work is shared out by position and channel, so the order of no sum depends on it."""
    monkeypatch.setattr(model, "cores", lambda: range(3))  # it would take no more threads than this machine has cores
    x = images(6)
    one = inference_model("dy_mobile", runtime="native", arithmetic=arithmetic, threads=1).logits(x)
    three = inference_model("dy_mobile", runtime="native", arithmetic=arithmetic, threads=3)
    np.testing.assert_array_equal(three.logits(x), one)
    np.testing.assert_array_equal(np.concatenate([three.logits(x[i : i + 1]) for i in range(6)]), one)


@needs_compiler
def test_native_takes_pixels_as_floats_too():
    model = inference_model("dy_mobile", runtime="native")
    np.testing.assert_array_equal(model.logits(images(2).astype(np.float32)), model.logits(images(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnx"}, "unknown runtime 'onnx'"),
        ({"storage": "float16"}, "banks cannot be stored as 'float16'; did you mean"),
        ({"threads": 0}, "threads must be positive"),
        ({"arithmetic": "float16"}, "unknown arithmetic 'float16'; did you mean"),
        ({"arithmetic": "bfloat16", "runtime": "jax"}, "bfloat16 arithmetic is the native engine's"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        inference_model("fix_mobile", **options)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("runtime", ["jax", pytest.param("native", marks=needs_compiler)])
def test_wrong_images(runtime):
    model = inference_model("dy_mobile", runtime=runtime)
    for x, message in ((images(2) / 255, "not float64"), (images(2).astype(np.int32), "not int32")):
        with pytest.raises(UserError, match=f"images must be uint8, or float32 from 0 to 255, {message}"):
            model(x)
    with pytest.raises(UserError, match="these images are from 0 to 1"):
        model((images(2) / 255).astype(np.float32))
    with pytest.raises(UserError, match=r"images must be \[batch, height, width, 3\], not \(64, 64, 3\)"):
        model(np.zeros((SIZE, SIZE, 3), np.uint8))
    chex.assert_shape(model(images(2)), (2, 5))


@pytest.mark.slow
def test_without_a_compiler(monkeypatch, capsys):
    """auto falls back to JAX, and says so; native says what is missing."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.build.cache_clear()
    library.load_library.cache_clear()
    try:
        model = inference_model("fix_mobile", runtime="auto")
        assert_same(model.logits(images(1)), expected("fix_mobile", 1))
        assert model.runtime == "jax"
        assert "JAX is used instead" in capsys.readouterr().err
        with pytest.raises(UserError, match=r"needs a C\+\+ compiler \(no-such-compiler is not there\)"):
            inference_model("fix_mobile", runtime="native")
    finally:
        build.build.cache_clear()
        library.load_library.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "stride"), [({}, 8), ({"small_input": True}, 2), ({"output_stride": 16}, 16)])
def test_the_strides_of_a_program(arguments, stride):
    assert network("dy_resnet18", **arguments)[2].strides == (stride, stride)
