"""`load_pretrained`: a trained network of the package, with what the layers need and nothing else."""

import json
from typing import Any, NamedTuple

import flax.linen as nn

from dynet_jax.models.registry import create_model
from dynet_jax.models.weights_file import read_weights, variable_shapes
from dynet_jax.pretrained import CARD_FILE, WEIGHTS_FILE, pretrained_folder


class Pretrained(NamedTuple):
    """A trained network.

    Attributes:
      model: the network, called as `model.apply(variables, images, train=False)`; it returns logits.
      variables: {'params': ..., 'batch_stats': ...} as NumPy arrays.
      class_names: names of the outputs.
      image_size: height and width of the images it was trained with, in pixels.
      mean, std: of pixels from 0 to 255, by channel; the network expects `(pixels - mean) / std`.
      card: the data, recipe, seed, command, accuracy and multiply-adds.
    """

    model: nn.Module
    variables: dict[str, Any]
    class_names: list[str]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    card: dict[str, Any]


def load_pretrained(name: str) -> Pretrained:
    """Returns a trained network that comes with the package; nothing is downloaded.

    Args:
      name: one of `dynet_jax.list_pretrained()`. The commands take the same networks as `pretrained:NAME`.
    Raises:
      UserError: for an unknown name.

    >>> import numpy as np, dynet_jax
    >>> network = dynet_jax.load_pretrained("dy_mobile_digits")
    >>> pixels = np.zeros((1, network.image_size, network.image_size, 3))
    >>> logits = network.model.apply(network.variables, (pixels - network.mean) / network.std, train=False)
    >>> logits.shape
    (1, 10)
    """
    folder = pretrained_folder(name)
    config, labels, card = (
        json.loads((folder / file).read_text()) for file in ("config.json", "labels.json", CARD_FILE)
    )
    model, data = create_model(**config["model"]), config["data"]
    variables = read_weights(folder / WEIGHTS_FILE, variable_shapes(model, data["image_size"]))
    mean, std = (tuple(map(float, data[key])) for key in ("mean", "std"))
    return Pretrained(model, variables, labels, data["image_size"], mean, std, card)
