"""The paper's ImageNet recipe, and one for segmentation. Files in configs/ begin from them."""

import ml_collections

_PIXELS_AND_LOADING = {
    "mean": (123.675, 116.28, 103.53),  # of ImageNet
    "std": (58.395, 57.12, 57.375),
    "threads": 16,
    "workers": 0,
    "cache": False,
}
_OF_ALL_TASKS = {
    "accumulation_steps": 1,
    "momentum": 0.9,
    "clip_norm": None,
    "learning_rate_factors": (),
    "weight_decays": (),
    "temperature_from": None,
    "temperature_epochs": 10.0,
    "ema_decay": None,
    "init_from": None,
    "dtype": "bfloat16",
    "seed": 0,
    "log_every_steps": 50,
    "checkpoint_every_steps": 1000,
    "keep_checkpoints": 3,
}


def paper_recipe(model: str, **model_arguments) -> ml_collections.ConfigDict:
    """A configuration of `create_model(model, **model_arguments)`, open to changes.

    Stated in the paper (section 4.1): SGD with momentum 0.9, batch 2048, learning rate 0.8, cosine decay, weight decay
    5e-5, label smoothing 0.1, random crop and flip, central crop for testing.
    Chosen here, because the paper is silent: 300 epochs, 5 of them warm-up, BatchNorm over 64 examples (the paper's
    2048 on 32 GPUs), no decay of BatchNorm's parameters and biases, random resized crops of 8 % to 100 % of the area,
    no clipping of gradients, no moving average of parameters, one learning rate for all parameters.
    """
    config = ml_collections.ConfigDict(_OF_ALL_TASKS)
    config.task = "classification"
    config.model = {
        "name": model,
        "num_classes": 1000,
        "width": 1.0,
        "small_input": False,
        "remat": False,
        **model_arguments,
    }
    config.data = {
        "name": "imagenet2012",
        "data_dir": None,
        "image_size": 224,
        "resize_to": 256,
        "crop": "random_resized_crop",
        "flip": True,
        **_PIXELS_AND_LOADING,
        "max_corrupt": 100,
    }
    config.batch_size = 2048
    config.epochs = 300.0
    config.warmup_epochs = 5.0
    config.schedule = "cosine"
    config.learning_rate = 0.8
    config.weight_decay = 5e-5
    config.decay_parameters = "kernels"
    config.label_smoothing = 0.1
    config.bn_batch_size = 64
    config.eval_every_epochs = 1.0
    return config


def segmentation_recipe(model: str, **model_arguments) -> ml_collections.ConfigDict:
    """A configuration of `create_model(model, **model_arguments)` on Cityscapes, open to changes.

    The paper (section 4.3) says of its recipe nothing but the data set. This is mmsegmentation's for a dilated FCN: SGD
    with momentum 0.9, batch 8, learning rate 0.01, 40,000 steps with poly decay, weight decay 5e-4 of all parameters,
    crops of 512x1024 at scales of 0.5 to 2, flips, distorted colours, and BatchNorm over the whole batch. It has also
    an auxiliary head (`model.auxiliary`), which the paper's MACs leave out, and dropout of the head, which is left out
    here.
    """
    config = ml_collections.ConfigDict(_OF_ALL_TASKS)
    config.task = "segmentation"
    config.model = {
        "name": model,
        "num_classes": 19,
        "width": 1.0,
        "output_stride": 8,
        "hidden_features": 512,
        "auxiliary": False,
        "padding": "SAME",
        "bn_epsilon": 1e-5,
        "remat": False,
        **model_arguments,
    }
    config.data = {
        "name": "cityscapes",
        "data_dir": None,
        "crop_size": (512, 1024),
        "eval_size": (1024, 2048),
        "label_size": (1024, 2048),
        "scale": (0.5, 2.0),
        "flip": True,
        "color_distortion": True,
        **_PIXELS_AND_LOADING,
        "max_corrupt": 0,
    }
    config.batch_size = 8
    config.epochs = 40_000 / (2975 // 8)
    config.warmup_epochs = 0.0
    config.schedule = "poly"
    config.learning_rate = 0.01
    config.weight_decay = 5e-4
    config.decay_parameters = "all"
    config.auxiliary_weight = 0.4
    config.inference = "whole"
    config.bn_batch_size = None
    config.eval_every_epochs = 10.0
    return config


RECIPES = {"classification": paper_recipe, "segmentation": segmentation_recipe}
