"""Every registered network at its smallest, for tests that compile it."""

import flax.linen as nn

from dynet_jax import create_model


def smallest(name: str, num_classes: int = 5, **arguments) -> nn.Module:
    width = 0.5 if "shuffle" in name else 0.1
    return create_model(name, **{"width": width, "num_classes": num_classes, **arguments})
