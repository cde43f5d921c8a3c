"""A network that compiles in seconds: Dy-mobile's frame around one block."""

from dynet_jax.layers.blocks import ConvSpec, Dynamic
from dynet_jax.models.mobilenet import BlockSpec, InvertedResidual
from dynet_jax.models.network import Network


def tiny_network(num_classes: int, strides: int, features: int = 12, group_size: int = 6, **options) -> Network:
    return Network(
        block=InvertedResidual,
        stages=((BlockSpec(features, features, strides, features // 6, expand=True),),),
        stem=(ConvSpec(12, 3, strides=2),),
        stem_pool=False,
        head=ConvSpec(24),
        hidden_features=None,
        activation="relu6",
        num_classes=num_classes,
        dynamic=Dynamic(group_size),
        **options,
    )
