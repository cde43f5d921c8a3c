"""The paper's ImageNet recipe. Files in configs/ begin from it, and so does an imported network."""

import ml_collections


def paper_recipe(model: str, **model_arguments) -> ml_collections.ConfigDict:
    """A configuration of `create_model(model, **model_arguments)`, open to changes.

    Stated in the paper (section 4.1): SGD with momentum 0.9, batch 2048, learning rate 0.8, cosine decay, weight decay
    5e-5, label smoothing 0.1, random crop and flip, central crop for testing.
    Chosen here, because the paper is silent: 300 epochs, 5 of them warm-up, BatchNorm over 64 examples (the paper's
    2048 on 32 GPUs), no decay of BatchNorm's parameters and biases, random resized crops of 8 % to 100 % of the area,
    no clipping of gradients, no moving average of parameters.
    """
    config = ml_collections.ConfigDict()
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
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
        "threads": 16,
        "workers": 0,
        "cache": False,
        "max_corrupt": 100,
    }
    config.batch_size = 2048
    config.accumulation_steps = 1
    config.epochs = 300.0
    config.warmup_epochs = 5.0
    config.learning_rate = 0.8
    config.momentum = 0.9
    config.weight_decay = 5e-5
    config.decay_parameters = "kernels"
    config.label_smoothing = 0.1
    config.clip_norm = None
    config.ema_decay = None
    config.init_from = None
    config.bn_batch_size = 64
    config.dtype = "bfloat16"
    config.seed = 0
    config.log_every_steps = 50
    config.eval_every_epochs = 1.0
    config.checkpoint_every_steps = 1000
    config.keep_checkpoints = 3
    return config
