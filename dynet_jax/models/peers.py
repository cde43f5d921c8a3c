"""Related methods, CondConv and DY-CNN, as settings of the same dynamic convolution."""

from dynet_jax.errors import UserError, suggest
from dynet_jax.layers.blocks import Dynamic


def cond_conv(group_size: int = 8) -> Dynamic:
    """Returns CondConv (Yang et al., 2019): a linear layer on each convolution's pooled input, sigmoid per kernel."""
    return Dynamic(group_size, predictor_per="layer", coefficient_scope="layer")


def dy_cnn(group_size: int = 4, temperature: float = 30.0) -> Dynamic:
    """Returns DY-CNN (Chen et al., 2020): two layers on each convolution's pooled input, softmax over its kernels.

    The paper lowers the temperature from 30 to 1 over the first ten epochs, which is `temperature_from=30.0` in a
    run's configuration with the network's `temperature=1.0`. Without it the temperature stays as given.
    """
    return Dynamic(
        group_size,
        hidden_divisor=4,
        predictor_per="layer",
        coefficient_scope="layer",
        activation="softmax",
        temperature=temperature,
    )


def with_coefficients(kind: str, dynamic: Dynamic) -> Dynamic:
    """Returns the same bank with the coefficients of another method: 'dynet' (as given), 'condconv' or 'dy_cnn'.

    It serves to compare coefficients alone, in networks of the same widths and group_size. Raises UserError for
    another kind.

    >>> with_coefficients("condconv", Dynamic(group_size=6)).coefficient_scope
    'layer'
    """
    kinds = {"dynet": dynamic, "condconv": cond_conv(dynamic.group_size), "dy_cnn": dy_cnn(dynamic.group_size)}
    if kind not in kinds:
        raise UserError(f"unknown coefficients {kind!r}; {suggest(kind, kinds)}")
    return kinds[kind]
