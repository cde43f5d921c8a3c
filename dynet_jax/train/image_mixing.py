"""What a training step does with random numbers: it mixes images, and gives keys to the network.

The numbers come with the batch, one for each image ('noise'), so that they are a function of seed, step and position.
"""

import contextlib
from typing import NamedTuple

import jax
from jax import Array
from jaxtyping import Float, UInt32

from dynet_jax.layers.image_noise import image_keys
from dynet_jax.ops.mixing import mix_pairs, neighbours
from dynet_jax.tasks.losses import MixedLabels


class ImageMixing(NamedTuple):
    """Parameters of mixup and CutMix, see `mix_pairs`; 0 for none. False if both are 0."""

    mixup: float = 0.0
    cutmix: float = 0.0

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(
        self, images: Float[Array, "batch height width channels"], labels: Array, noise: UInt32[Array, " batch"] | None
    ) -> tuple[Array, Array | MixedLabels]:
        """Returns mixed images and their labels; both unchanged if nothing is to be mixed."""
        if not self or noise is None:
            return images, labels
        images, shares = mix_pairs(images, jax.vmap(jax.random.key)(noise[::2]), self.mixup, self.cutmix)
        return images, MixedLabels(labels, neighbours(labels), shares)


UNMIXED = ImageMixing()
# Keys of the network are made with it. Without it they would be those of mixing: split(key)[n] is fold_in(key, n).
OF_NETWORK = 2**32 - 1


def network_noise(noise: UInt32[Array, " batch"] | None) -> contextlib.AbstractContextManager:
    """Returns a context in which the network has a random key for each image, if there are numbers for them."""
    if noise is None:
        return contextlib.nullcontext()
    return image_keys(jax.vmap(lambda number: jax.random.fold_in(jax.random.key(number), OF_NETWORK))(noise))
