"""DyNet's peers, CondConv and DY-CNN, as settings of the same dynamic convolution."""

from dynet_jax.layers.blocks import Dynamic


def cond_conv(group_size: int = 8) -> Dynamic:
    """CondConv (Yang et al., 2019): a linear layer on the pooled input of each convolution, one sigmoid per kernel."""
    return Dynamic(group_size, predictor_per="layer", coefficient_scope="layer")


def dy_cnn(group_size: int = 4, temperature: float = 30.0) -> Dynamic:
    """DY-CNN (Chen et al., 2020): two layers on each convolution's pooled input, softmax over its kernels.

    The paper lowers the temperature from 30 to 1 over the first ten epochs; here it stays as given.
    """
    return Dynamic(
        group_size,
        hidden_divisor=4,
        predictor_per="layer",
        coefficient_scope="layer",
        activation="softmax",
        temperature=temperature,
    )
