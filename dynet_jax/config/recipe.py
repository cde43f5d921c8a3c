"""The paper's ImageNet recipe, and one for segmentation, on which the files in configs/ are based.

The numbers are the defaults of `keys.py`.
"""

import ml_collections

from dynet_jax.config.keys import KEYS, C, S


def paper_recipe(model: str, **model_arguments) -> ml_collections.ConfigDict:
    """Returns an unlocked configuration of `create_model(model, **model_arguments)` with the paper's recipe.

    Stated in the paper (section 4.1): SGD with momentum 0.9, batch 2048, learning rate 0.8, cosine decay, weight decay
    5e-5, label smoothing 0.1, random crop and flip, central crop for testing.
    Chosen here, because the paper is silent: 300 epochs, 5 of them warm-up, BatchNorm over 64 examples (the paper's
    2048 on 32 GPUs), no decay of BatchNorm's parameters and biases, random resized crops of 8 % to 100 % of the area,
    no clipping of gradients, no moving average of parameters, one learning rate for all parameters.
    """
    return _recipe(C, model, model_arguments)


def segmentation_recipe(model: str, **model_arguments) -> ml_collections.ConfigDict:
    """Returns an unlocked configuration of `create_model(model, **model_arguments)` on Cityscapes.

    The paper (section 4.3) states only the dataset. This is mmsegmentation's recipe for a dilated FCN: SGD with
    momentum 0.9, batch 8, learning rate 0.01, 40,000 steps with poly decay, weight decay 5e-4 of all parameters, crops
    of 512x1024 at scales of 0.5 to 2, flips, distorted colours, and BatchNorm over the whole batch. mmsegmentation also
    has an auxiliary head (`model.auxiliary`), which the paper's MACs do not include, and dropout in the head, which is
    omitted here.
    """
    return _recipe(S, model, model_arguments)


def _recipe(task: str, model: str, model_arguments: dict) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict({"model": {}, "data": {}})
    for key in KEYS.values():
        if task in key.defaults:
            *section, name = key.name.split(".")
            (config[section[0]] if section else config)[name] = key.defaults[task]
    config.model.update({"name": model, **model_arguments})
    return config


RECIPES = {C: paper_recipe, S: segmentation_recipe}
