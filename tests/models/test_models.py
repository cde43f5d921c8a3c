"""The registered networks: their sizes, their options, and the mistakes that they name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dynet_jax import create_model, list_models
from dynet_jax.analysis import count_macs
from dynet_jax.errors import UserError
from dynet_jax.layers.blocks import Dynamic
from tests.models.smallest import shallow, smallest

# Parameters, and multiply-adds at 224x224 of convolutions, everything but the classifier, and everything, at width 1.0.
# Static base networks: torchvision's parameters (ShuffleNetV2's, with the original blocks, are our own count; with
# torchvision's see below). The rest: tests/analysis/test_paper.py holds them against the paper's tables.
GOLDEN = {
    "condconv_mobilenet_v2": (16_083_992, 299_494_272, 313_852_288, 315_132_288),
    "condconv_resnet18": (88_615_080, 1_813_561_344, 1_901_472_256, 1_901_984_256),
    "dy_cnn_mobilenet_v2": (11_149_736, 299_494_272, 308_914_368, 310_194_368),
    "dy_cnn_resnet18": (44_933_880, 1_813_561_344, 1_857_790_272, 1_858_302_272),
    "dy_mobile": (7_617_320, 129_262_392, 135_143_640, 136_423_640),
    "dy_mobilenet_v2": (22_490_184, 299_494_272, 320_164_416, 321_444_416),
    "dy_mobilenet_v3_large": (19_451_488, 214_080_960, 229_263_312, 231_772_112),
    "dy_mobilenet_v3_small": (6_691_408, 54_896_576, 59_409_872, 61_023_696),
    "dy_resnet18": (17_286_056, 577_224_704, 594_182_656, 594_438_656),
    "dy_resnet50": (43_594_904, 1_126_350_848, 1_168_118_784, 1_169_142_784),
    "dy_shuffle": (5_794_888, 93_051_000, 97_240_188, 98_264_188),
    "fcn_dy_mobile": (7_422_803, 1_606_826_816, 1_612_708_064, 1_612_708_064),
    "fcn_dy_resnet18": (18_219_475, 3_359_383_552, 3_376_341_504, 3_376_341_504),
    "fcn_dy_resnet50": (47_299_267, 8_580_898_816, 8_622_666_752, 8_622_666_752),
    "fcn_mobilenet_v2": (3_297_043, 2_631_844_096, 2_631_844_096, 2_631_844_096),
    "fcn_resnet18": (13_546_579, 11_069_628_416, 11_069_628_416, 11_069_628_416),
    "fcn_resnet50": (32_955_987, 26_483_695_616, 26_483_695_616, 26_483_695_616),
    "fix_mobile": (2_191_292, 129_262_392, 129_262_392, 130_542_392),
    "fix_resnet18": (3_071_976, 577_224_704, 577_224_704, 577_480_704),
    "fix_resnet50": (6_927_528, 1_126_350_848, 1_126_350_848, 1_127_374_848),
    "fix_shuffle": (1_875_666, 93_051_000, 93_051_000, 94_075_000),
    "mobilenet_v2": (3_504_872, 299_494_272, 299_494_272, 300_774_272),
    "mobilenet_v3_large": (5_483_032, 214_080_960, 214_080_960, 216_589_760),
    "mobilenet_v3_small": (2_542_856, 54_896_576, 54_896_576, 56_510_400),
    "resnet18": (11_689_512, 1_813_561_344, 1_813_561_344, 1_814_073_344),
    "resnet50": (25_557_032, 4_087_136_256, 4_087_136_256, 4_089_184_256),
    "shufflenet_v2": (2_279_760, 144_790_296, 144_790_296, 145_814_296),
}
STATIC_LAYERS = ("'stem'", "'head'", "'classifier'", "'shortcut'", "'project1'", "'project2'", "'squeeze_excite'")
CLASSIFIERS = [name for name in GOLDEN if not name.startswith("fcn_")]
DYNAMIC = [name for name in GOLDEN if name.startswith(("dy_", "condconv_", "fcn_dy_"))]


@functools.cache
def count(name, size=224, **arguments):
    return count_macs(create_model(name, **arguments), (size, size, 3))


def shapes(model, size=64, batch=2):
    """Shapes of a model's variables and of its logits, without computing anything."""
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    return variables, logits


def test_every_model_has_a_golden_row():
    assert list_models() == sorted(GOLDEN)
    assert list_models(task="classification") == sorted(CLASSIFIERS)
    assert list_models(task="segmentation") == sorted(GOLDEN.keys() - set(CLASSIFIERS))


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_and_macs(name):
    macs = count(name)
    assert (macs.parameters, macs.convolution, macs.total - macs.classifier, macs.total) == GOLDEN[name]


def test_the_fcn_has_torchvisions_parameters():
    """fcn_resnet50 with its auxiliary head and 21 classes: 35,322,218, as torchvision's weights say."""
    assert count("fcn_resnet50", num_classes=21, auxiliary=True).parameters == 35_322_218


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "parameters"), [(0.5, 1_366_792), (1.0, 2_278_604), (1.5, 3_503_624), (2.0, 7_393_996)]
)
def test_shufflenet_has_torchvisions_parameters(width, parameters):
    assert count("shufflenet_v2", width=width, downsample="torchvision").parameters == parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [
        ("mobilenet_v2", 0.5, 1_968_680),
        ("mobilenet_v2", 1.4, 6_108_776),
        ("mobilenet_v3_small", 0.75, 1_653_920),
        ("mobilenet_v3_large", 1.25, 8_164_744),
    ],
)
def test_scaled_networks_have_torchvisions_parameters(name, width, parameters):
    assert count(name, width=width).parameters == parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_logits_and_dtypes(name):
    variables, logits = shapes(smallest(name, num_classes=7, dtype=jnp.bfloat16))
    positions = () if name in CLASSIFIERS else (8, 8)
    assert (logits.shape, logits.dtype) == ((2, *positions, 7), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_width_scales_the_network(name):
    normal = GOLDEN[name][1]
    assert count(name, width=0.5).convolution < 0.5 * normal
    assert count(name, width=1.5).convolution > 1.5 * normal


@pytest.mark.slow
@pytest.mark.parametrize("name", DYNAMIC)
def test_group_size_is_the_number_of_kernels(name):
    variables, _ = shapes(smallest(name, group_size=3))
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(variables)}
    banks = {path: leaf for path, leaf in leaves.items() if "'kernels'" in path}
    assert {leaf.shape[0] for leaf in banks.values()} == {3}
    assert len(banks) >= 16
    assert not [path for path in banks if any(static in path for static in STATIC_LAYERS)]
    spatial = [path for path, leaf in leaves.items() if "'kernel'" in path and leaf.ndim == 4]
    assert all(any(static in path for static in STATIC_LAYERS) for path in spatial)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dy_mobile", "dy_shuffle", "dy_resnet18", "dy_resnet50"])
@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_group_size_does_not_change_the_convolutions(name, group_size):
    assert count(name, group_size=group_size).convolution == GOLDEN[name][1]
    assert count(name, group_size=group_size).fusion * 6 == count(name).fusion * group_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "dy_mobil"}, "unknown model 'dy_mobil'; did you mean dy_mobile"),
        ({"name": "transformer"}, "unknown model 'transformer'; choose from: condconv_mobilenet_v2, "),
        ({"name": "dy_mobile", "group_sizes": 6}, "dy_mobile has no argument 'group_sizes'; did you mean group_size"),
        ({"name": "mobilenet_v2", "group_size": 6}, "mobilenet_v2 has no argument 'group_size'"),
        ({"name": "dy_mobile", "smal_input": True}, "no argument 'smal_input'; did you mean small_input"),
        ({"name": "dy_mobile", "stages": ()}, "no argument 'stages'"),
        ({"name": "dy_mobile", "width": 0}, "width must be a positive number"),
        ({"name": "mobilenet_v2", "width": -1.0}, "width must be a positive number"),
        ({"name": "mobilenet_v2", "width": float("nan")}, "width must be a positive number"),
        ({"name": "resnet18", "width": 0.001}, "a layer cannot have 0.064 channels: width must be"),
        ({"name": "shufflenet_v2", "width": 0.75}, "width must be one of ShuffleNetV2's 0.5, 1.0, 1.5, 2.0, not 0.75"),
        ({"name": "shufflenet_v2", "downsample": "megvii"}, "downsample must be 'original' or 'torchvision'"),
        ({"name": "fix_mobile", "num_classes": 0}, "num_classes must be a positive int, not 0"),
        ({"name": "fix_mobile", "num_classes": 10.0}, "num_classes must be a positive int, not 10.0"),
        ({"name": "dy_mobile", "group_size": 0}, "group_size must be a positive int .6 in the paper., not 0"),
        ({"name": "dy_resnet50", "group_size": None}, "group_size must be a positive int"),
        ({"name": "dy_cnn_resnet18", "temperature": 0}, "temperature must be positive"),
        ({"name": "resnet50", "output_stride": 4}, "output_stride must be 8, 16, 32 or None, not 4"),
        ({"name": "dy_mobile", "width": "1.0"}, "width must be a number, not '1.0'"),
        ({"name": "dy_mobile", "width": None}, "width must be a number, not None"),
        (
            {"name": "resnet50", "stem": 64},
            "stem must be a sequence of features, such as .64,. or .64, 64, 128., not 64",
        ),
        ({"name": "resnet50", "stem": ()}, "stem must be a sequence of features"),
        ({"name": "resnet50", "bn_epsilon": -1.0}, "bn_epsilon must be positive, not -1.0"),
        (
            {"name": "resnet50", "small_input": True, "output_stride": 16},
            "output_stride=16 is above the network's own stride of 8",
        ),
        ({"name": "resnet50", "padding": "VALID"}, "padding must be 'SAME' or 'TORCH', not 'VALID'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        create_model(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("small_input", "least"), [(False, 32), (True, 8)])
@pytest.mark.parametrize("name", ["dy_mobile", "shufflenet_v2", "resnet18", "mobilenet_v3_small"])
def test_images_smaller_than_the_stride_are_refused(name, small_input, least):
    model = smallest(name, small_input=small_input)
    shapes(model, size=least)
    with pytest.raises(UserError, match=f"images of {least - 1}x{least - 1} are too small for a network of stride"):
        shapes(model, size=least - 1)


def test_dynamic_settings_are_checked():
    """A misspelt setting must not result in a static network."""
    with pytest.raises(UserError, match="predictor_per must be 'block' or 'layer', not 'conv'"):
        Dynamic(predictor_per="conv")


@pytest.mark.slow
@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.4])
def test_dy_mobilenet_v2_has_mobilenet_v2s_convolutions(width):
    """Fig. 5: its own widths and expansion, from 0.35 to 1.4."""
    assert count("dy_mobilenet_v2", width=width).convolution == count("mobilenet_v2", width=width).convolution


def test_list_models_takes_a_pattern():
    assert list_models("*_mobile") == ["dy_mobile", "fcn_dy_mobile", "fix_mobile"]
    assert list_models("*_mobile", task="segmentation") == ["fcn_dy_mobile"]
    assert list_models("no_such_*") == []


def test_rounding_of_widths_never_loses_a_tenth():
    from dynet_jax.models.network import make_divisible

    widths = np.linspace(0.5, 400, 700)
    rounded = np.array([make_divisible(width) for width in widths])
    assert (rounded % 8 == 0).all()
    assert (rounded >= 0.9 * widths).all()
    assert (rounded[widths >= 8] <= widths[widths >= 8] + 8).all()


# Options of predictors and of residual branches


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dy_resnet18", "dy_mobile", "dy_cnn_resnet18", "fcn_dy_resnet18"])
def test_the_predictor_of_every_dynamic_network_can_be_changed(name):
    """A hidden layer of C_in / 2, at least 12 wide, or none at all, by the shapes of the parameters."""

    def hidden_layers(**options):
        model = smallest(name, width=0.5, **options)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
        flat = flatten_dict(shapes, sep="/")
        return [leaf.shape for key, leaf in flat.items() if key.endswith("predictor/hidden/kernel")]

    widths = hidden_layers(hidden_divisor=2, min_hidden_features=12)
    assert widths
    assert all(hidden == max(12, channels // 2) for channels, hidden in widths)
    assert len({hidden for _, hidden in widths}) > 1
    assert hidden_layers(hidden_divisor=None) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_divisor": 0}, "hidden_divisor must be a positive int"),
        ({"hidden_divisor": 2.0}, "hidden_divisor must be a positive int"),
        ({"hidden_divisor": None, "min_hidden_features": 8}, "min_hidden_features=8 is the width of a hidden layer"),
        ({"min_hidden_features": 0}, "min_hidden_features must be a positive int"),
        ({"normalize_pooled": 1}, "normalize_pooled must be True or False"),
        ({"pooled_limit": 0.0}, "pooled_limit must be a positive number of standard deviations"),
        ({"annealed": "yes"}, "annealed must be True or False"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"group_size": True}, "group_size must be a positive int"),
    ],
)
def test_options_of_predictors_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        create_model("dy_resnet18", **options)


@pytest.mark.parametrize(
    "option", ["hidden_divisor", "min_hidden_features", "temperature", "normalize_pooled", "pooled_limit"]
)
def test_a_static_network_has_no_predictor(option):
    with pytest.raises(UserError, match=f"fix_resnet18 has no argument '{option}'"):
        create_model("fix_resnet18", **{option: 1})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "residual"), [("dy_resnet18", 3), ("resnet50", 3), ("mobilenet_v2", 2), ("dy_shuffle", 0)]
)
def test_residual_branches_begin_at_zero_or_not(name, residual):
    """The BatchNorm scales of a new network show it; ShuffleNetV2 has no residual branches."""

    def zeros(**options):
        model = shallow(smallest(name, **options))
        params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
        flat = flatten_dict(params, sep="/")
        return sum(not np.asarray(leaf).any() for key, leaf in flat.items() if key.endswith("_norm/scale"))

    assert zeros() == residual
    assert zeros(zero_init_residual=False) == 0
