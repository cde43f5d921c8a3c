"""MobileNetV3-Small and -Large, and Dy-MobileNetV3 (the later extension of DyNet, arXiv 2004.10694)."""

from dynet_jax.layers.blocks import ConvSpec, Dynamic
from dynet_jax.models.mobilenet import BlockSpec, InvertedResidual
from dynet_jax.models.network import Network, make_divisible
from dynet_jax.models.registry import register_model

# Howard et al. (2019), Tables 1 and 2, one row per block: kernel_size, hidden_features, features, squeeze-excite,
# activation, strides. A stage begins where the paper's features change.
LARGE = (
    ((3, 16, 16, False, "relu", 1),),
    ((3, 64, 24, False, "relu", 2), (3, 72, 24, False, "relu", 1)),
    ((5, 72, 40, True, "relu", 2), (5, 120, 40, True, "relu", 1), (5, 120, 40, True, "relu", 1)),
    (
        (3, 240, 80, False, "hard_swish", 2),
        (3, 200, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
    ),
    ((3, 480, 112, True, "hard_swish", 1), (3, 672, 112, True, "hard_swish", 1)),
    (
        (5, 672, 160, True, "hard_swish", 2),
        (5, 960, 160, True, "hard_swish", 1),
        (5, 960, 160, True, "hard_swish", 1),
    ),
)
SMALL = (
    ((3, 16, 16, True, "relu", 2),),
    ((3, 72, 24, False, "relu", 2), (3, 88, 24, False, "relu", 1)),
    ((5, 96, 40, True, "hard_swish", 2), (5, 240, 40, True, "hard_swish", 1), (5, 240, 40, True, "hard_swish", 1)),
    ((5, 120, 48, True, "hard_swish", 1), (5, 144, 48, True, "hard_swish", 1)),
    (
        (5, 288, 96, True, "hard_swish", 2),
        (5, 576, 96, True, "hard_swish", 1),
        (5, 576, 96, True, "hard_swish", 1),
    ),
)
LARGE_HIDDEN, SMALL_HIDDEN = 1280, 1024  # widths of the classifier's hidden layer


@register_model(
    title="MobileNetV3-Large",
    torchvision="mobilenet_v3_large",
    timm="mobilenetv3_large_100",
)
def mobilenet_v3_large(num_classes: int = 1000, width: float = 1.0) -> Network:
    """Returns MobileNetV3-Large (Howard et al., 2019) without dropout; torchvision's widths and BatchNorm epsilon."""
    return _mobilenet_v3(LARGE, LARGE_HIDDEN, num_classes, width, dynamic=None)


@register_model(
    title="MobileNetV3-Small",
    torchvision="mobilenet_v3_small",
    timm="mobilenetv3_small_100",
)
def mobilenet_v3_small(num_classes: int = 1000, width: float = 1.0) -> Network:
    """Returns MobileNetV3-Small (Howard et al., 2019) without dropout; torchvision's widths and BatchNorm epsilon."""
    return _mobilenet_v3(SMALL, SMALL_HIDDEN, num_classes, width, dynamic=None)


@register_model(title="Dy-MobileNetV3-Large", base="mobilenet_v3_large")
def dy_mobilenet_v3_large(num_classes: int = 1000, width: float = 1.0, group_size: int = 6) -> Network:
    """Returns MobileNetV3-Large with dynamic blocks; squeeze-excite remains, as the extension does not mention it."""
    return _mobilenet_v3(LARGE, LARGE_HIDDEN, num_classes, width, Dynamic(group_size))


@register_model(title="Dy-MobileNetV3-Small", base="mobilenet_v3_small")
def dy_mobilenet_v3_small(num_classes: int = 1000, width: float = 1.0, group_size: int = 6) -> Network:
    """Returns MobileNetV3-Small with dynamic blocks; squeeze-excite remains, as the extension does not mention it."""
    return _mobilenet_v3(SMALL, SMALL_HIDDEN, num_classes, width, Dynamic(group_size))


def _mobilenet_v3(table, hidden_features, num_classes, width, dynamic):
    c_in = make_divisible(16 * width)
    stages, stem = [], ConvSpec(c_in, 3, strides=2)
    for rows in table:
        stage = []
        for row in rows:
            stage.append(_block(c_in, width, *row))
            c_in = stage[-1].features
        stages.append(tuple(stage))
    return Network(
        block=InvertedResidual,
        stages=tuple(stages),
        stem=(stem,),
        stem_pool=False,
        head=ConvSpec(6 * c_in),
        hidden_features=make_divisible(hidden_features * width),
        activation="hard_swish",
        num_classes=num_classes,
        dynamic=dynamic,
        bn_epsilon=1e-3,
    )


def _block(c_in, width, kernel_size, hidden, features, squeeze, activation, strides):
    hidden = make_divisible(hidden * width)
    return BlockSpec(
        hidden,
        make_divisible(features * width),
        strides,
        feature_group_count=hidden,
        expand=hidden != c_in,
        kernel_size=kernel_size,
        squeeze_features=make_divisible(hidden / 4) if squeeze else None,
        activation=activation,
    )
