"""The fully convolutional network of Table 3: a dilated backbone and a small head, for dense prediction."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynet_jax.errors import UserError
from dynet_jax.layers.blocks import ConvSpec
from dynet_jax.models.network import Network
from dynet_jax.models.registry import create_model, register_model
from dynet_jax.ops.maps import to_array

AUXILIARY_FEATURES = 256


class FCN(nn.Module):
    """A backbone's last feature map, then 3x3 convolution, BatchNorm, ReLU, and a 1x1 convolution to the classes.

    Attributes:
      backbone: a network with `output_stride` 8 or 16 (Long et al., 2015; dilated as in Yu and Koltun, 2016). The
        head takes its padding, BatchNorm options and dtype from it.
      num_classes: number of classes at every position.
      hidden_features: output channels of the 3x3 convolution; 512 reproduces Table 3.
      auxiliary: whether training has a second head, of 256 features, on the stage before the last (Zhao et al., 2017).

    >>> import jax, jax.numpy as jnp
    >>> from dynet_jax import create_model
    >>> model = FCN(create_model("dy_resnet18", width=0.125, output_stride=8), num_classes=19, hidden_features=16)
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.ones((1, 64, 96, 3)))[0].shape
    (1, 8, 12, 19)
    """

    backbone: Network
    num_classes: int
    hidden_features: int = 512
    auxiliary: bool = False

    def __post_init__(self):
        super().__post_init__()
        for rate in ("dropout", "stochastic_depth"):
            if getattr(self.backbone, rate, 0):
                raise UserError(f"{rate} is for classifiers; leave it 0 for segmentation")

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Returns logits [batch, height / output_stride, width / output_stride, num_classes].

        images: [batch, height, width, 3].

        In training with `auxiliary` it returns the logits, and those of the second head.
        """
        features: Any = self.backbone(images, train=train, features_only=True)
        *_, before, x = features.values()
        layers = self.backbone.layers(train)

        def head(x, features, prefix=""):
            x = to_array(layers.unit(f"{prefix}head", x, ConvSpec(features, 3), "relu"))
            initializer = nn.initializers.normal(0.01)
            classifier = nn.Conv(self.num_classes, (1, 1), kernel_init=initializer, name=f"{prefix}classifier")
            return classifier(x.astype(jnp.float32))

        logits = head(x, self.hidden_features)
        if not self.auxiliary or not (train or self.is_initializing()):
            return logits
        auxiliary = head(before, AUXILIARY_FEATURES, "auxiliary_")
        return (logits, auxiliary) if train else logits


def register_fcn(builder: Callable[..., Network] | None = None, **known) -> Callable:
    """Registers `fcn_NAME` for a registered backbone, as a decorator; it takes the backbone's arguments and the head's.

    known: fields of `Registered`, such as recipe.

    >>> from dynet_jax.models.registry import list_models
    >>> list_models("fcn_dy_*")
    ['fcn_dy_mobile', 'fcn_dy_resnet18', 'fcn_dy_resnet50']
    """
    if builder is None:
        return lambda builder: register_fcn(builder, **known)
    backbone = builder.__name__

    def build(
        num_classes: int = 19, output_stride: int = 8, hidden_features: int = 512, auxiliary: bool = False, **arguments
    ) -> FCN:
        if type(hidden_features) is not int or hidden_features < 1:
            raise UserError(f"hidden_features must be a positive int, not {hidden_features!r}")
        if type(auxiliary) is not bool:
            raise UserError(f"auxiliary must be True or False, not {auxiliary!r}")
        network: Any = create_model(backbone, num_classes=num_classes, output_stride=output_stride, **arguments)
        return FCN(network, num_classes, hidden_features, auxiliary)

    own = [p for p in inspect.signature(build).parameters.values() if p.kind is not p.VAR_KEYWORD]
    inner = inspect.signature(builder).parameters.values()
    inner = [p.replace(kind=p.KEYWORD_ONLY) for p in inner if p.name != "num_classes"]
    build.__name__ = f"fcn_{backbone}"
    build.__doc__ = f"The fully convolutional network on a dilated {backbone} (Table 3)."
    build.__signature__ = inspect.Signature([*own, *inner])  # pyrefly: ignore[missing-attribute]  (of any function)
    register_model(build, **{"task": "segmentation", "title": f"FCN on {backbone}", **known})
    return builder
