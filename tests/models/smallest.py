"""Every registered network at its smallest, and with random weights, for tests that compile it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax import create_model


def smallest(name: str, num_classes: int = 5, **arguments) -> nn.Module:
    small = {"width": 0.5 if "shuffle" in name else 0.1}
    if name.startswith("fcn_"):
        small["hidden_features"] = 8
    return create_model(name, **{**small, "num_classes": num_classes, **arguments})


def shallow(model):
    """The network with one block of every kind, in their order: more would repeat these, and compile for long.

    Kinds differ in strides, dilations, kernel size, expansion, activation, in squeeze-excite, and in whether the width
    changes, so that there is no shortcut. A segmentation network becomes one with such a backbone.
    """
    if hasattr(model, "backbone"):
        return model.clone(backbone=shallow(model.backbone))
    kept, seen, width = [], set(), None
    for stage, planned in zip(model.stages, model.planned_stages):
        specs = []
        for spec, block in zip(stage, planned):
            kind = _kind(block, width)
            width = getattr(spec, "features", None)
            if kind not in seen:
                seen.add(kind)
                specs.append(spec)
        kept.append(tuple(specs))
    return model.clone(stages=tuple(filter(None, kept)))


def _kind(block, width_before):
    fields = {name: value for name, value in block._asdict().items() if "features" not in name and "group" not in name}
    fields["squeeze"] = getattr(block, "squeeze_features", None) is not None
    fields["same_width"] = getattr(block, "features", None) == width_before
    return tuple(sorted(fields.items()))


def random_variables(model, size, seed=1):
    """Random everywhere: in a fresh network a residual block's last scale is 0, and nothing inside has a gradient.

    Kernels keep the scale of activations, and coefficients differ between images without being saturated.
    """
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if "'kernel" in name:
            gain = 1 if "'predictor'" in name else 2
            # A hidden layer has one or two ReLUs at this size, and none may be dead: positive weights of means.
            values = rng.normal(size=leaf.shape) * np.sqrt(gain / np.prod(leaf.shape[-4:-1]))
            return (np.abs(values) if "'hidden'" in name else values).astype(np.float32)
        if "'hidden'" in name and "'bias'" in name:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        if "'bias'" in name or "'mean'" in name:
            return (0.3 * rng.normal(size=leaf.shape)).astype(np.float32)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return jax.tree_util.tree_map_with_path(fill, shapes)
