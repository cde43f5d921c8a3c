"""The fully convolutional network of Table 3: a dilated backbone and a small head, for dense prediction."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynet_jax.layers.blocks import ConvSpec
from dynet_jax.models.network import Network


class FCN(nn.Module):
    """A backbone's last feature map -> 3x3 convolution, BatchNorm, ReLU -> 1x1 convolution to the classes.

    Attributes:
      backbone: a network with `output_stride` 8 or 16 (Long et al., 2015; dilated as in Yu and Koltun, 2016). The
        head takes its padding, BatchNorm options and dtype from it.
      num_classes: of every position.
      hidden_features: of the 3x3 convolution; 512 reproduces Table 3.

    >>> import jax, jax.numpy as jnp
    >>> from dynet_jax import create_model
    >>> model = FCN(create_model("dy_resnet18", width=0.125, output_stride=8), num_classes=19, hidden_features=16)
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.ones((1, 64, 96, 3)))[0].shape
    (1, 8, 12, 19)
    """

    backbone: Network
    num_classes: int
    hidden_features: int = 512

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, 3] -> logits [batch, height / output_stride, width / output_stride, num_classes]."""
        *_, x = self.backbone(images, train=train, features_only=True).values()
        x = nn.relu(self.backbone.layers(train).conv_norm("head", x, ConvSpec(self.hidden_features, 3)))
        classifier = nn.Conv(self.num_classes, (1, 1), kernel_init=nn.initializers.normal(0.01), name="classifier")
        return classifier(x.astype(jnp.float32))
