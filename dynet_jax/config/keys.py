"""Every key of the configuration, declared once. Parsing, checks, resuming, `--help` and the documentation use it.

If the two tasks differ, defaults are those of the paper's recipe and of the one for segmentation (`recipe.py`).
"""

from dynet_jax.config import schema
from dynet_jax.config.schema import ARMS, EVALUATION, FRACTION, FROM_0, POSITIVE, RESUME, Key, Pairs, Rule, one_of
from dynet_jax.data.pixel_units import IMAGENET_MEAN, IMAGENET_STD

C, S = schema.TASKS
SIDES = schema.numbers("two positive whole numbers, height and width", 2, (int,))
COLOURS = "numbers, of red, green and blue"
MEAN = schema.numbers(f"three {COLOURS}", 3, above=float("-inf"))
STD = schema.numbers(f"three positive {COLOURS}", 3)
SCALE = Rule("two numbers from 0.01 to 100, like [0.5, 2.0]", lambda v: schema.is_range(v, 0.01, 100))
WIDTHS = Rule("positive whole numbers", lambda v: len(v) > 0 and all(type(n) is int and n > 0 for n in v))
FOLDER = Rule("a folder", lambda v: True)
SEEDS = Rule("from 0 to 2^32 - 1", lambda v: 0 <= v < 2**32)

# fmt: off
GROUPS: dict[str, tuple[Key, ...]] = {
    "Run": (
        Key("task", str, {C: C, S: S}, "What the network is trained for.", one_of(C, S)),
        Key("init_from", str, None, "Work directory whose parameters the run starts with.",
            FOLDER, none="new parameters", set_by=ARMS),
        Key("seed", int, 0, "Seed of initial parameters, the order of images, and augmentation.", SEEDS, set_by=ARMS),
        Key("dtype", str, "bfloat16", "Type of computations; parameters are float32.", one_of("float32", "bfloat16")),
        Key("log_every_steps", int, 50, "Interval of reports; less in a run that would have under ten.",
            POSITIVE, "steps", free=RESUME),
        Key("eval_every_epochs", float, {C: 1.0, S: 10.0}, "Interval of evaluations.", POSITIVE, "epochs", free=RESUME),
        Key("checkpoint_every_steps", int, 1000, "Interval of checkpoints; an evaluation saves one, too.",
            POSITIVE, "steps", free=RESUME),
        Key("keep_checkpoints", int, 3, "Number of newest checkpoints to keep, besides the best.",
            POSITIVE, free=RESUME),
    ),
    "Optimisation": (
        Key("batch_size", int, {C: 2048, S: 8}, "Images per step, on all devices together.", POSITIVE, "images",
            fixed="it is the unit of steps"),
        Key("accumulation_steps", int, 1, "Number of parts into which a batch is split, to save memory.",
            POSITIVE, free=RESUME),
        Key("epochs", float, {C: 300.0, S: 40_000 / (2975 // 8)}, "Length of the run.", POSITIVE, "epochs"),
        Key("optimizer", str, "sgd", "'sgd', 'adamw', 'lamb', ...: an optax function that takes a learning rate."),
        Key("optimizer_arguments", dict, {C: {}, S: {}},
            "Other arguments of that function, by name: optimizer_arguments.b2=0.95."),
        Key("momentum", float, 0.9, "Momentum of 'sgd'; other optimisers use optimizer_arguments.", FRACTION),
        Key("learning_rate", float, {C: 0.8, S: 0.01}, "Highest learning rate.", FROM_0),
        Key("schedule", str, {C: "cosine", S: "poly"},
            "'cosine', 'poly', 'wsd' (warm-up, stable, decay), or the name of an optax schedule."),
        Key("schedule_arguments", dict, {C: {}, S: {}},
            "Other arguments of the schedule, by name: schedule_arguments.decay_fraction=0.1."),
        Key("warmup_epochs", float, {C: 5.0, S: 0.0}, "Time in which learning rates rise from 0.", FROM_0, "epochs"),
        Key("weight_decay", float, {C: 5e-5, S: 5e-4},
            "Applied by the optimiser if it has its own decay ('adamw'), otherwise added to the gradient.", FROM_0),
        Key("decay_parameters", str, {C: "kernels", S: "all"}, "Parameters that decay.", one_of("kernels", "all")),
        Pairs("weight_decays", tuple, (), "Weight decay of parameters whose names match a regular expression.",
              example=[["predictor", 0.0]]),
        Pairs("learning_rate_factors", tuple, (), "Factors of the learning rate for such parameters.",
              example=[["predictor", 10.0]]),
        Key("clip_norm", float, None, "Limit to which larger gradient norms are scaled down.",
            POSITIVE, none="no clipping", example=1.0),
        Key("label_smoothing", float, {C: 0.1}, "Label smoothing of the training loss.", FRACTION),
        Key("mixup", float, {C: 0.0}, "Parameter of mixup's Beta distribution; pairs of training images are blended.",
            FROM_0, example=0.2),
        Key("cutmix", float, {C: 0.0}, "Parameter of CutMix's; a rectangle of an image shows the other of its pair.",
            FROM_0, example=1.0),
        Key("auxiliary_weight", float, {S: 0.4}, "Weight of the auxiliary head's loss.", FROM_0),
        Key("ema_decay", float, None, "Decay of moving averages of the parameters; evaluations use the averages.",
            Rule("in (0, 1)", lambda v: 0 < v < 1), none="no averages", example=0.9999),
        Key("temperature_from", float, None, "Initial temperature of the coefficient predictors; 30 in DY-CNN.",
            POSITIVE, none="the network's own from the start", example=30.0),
        Key("temperature_epochs", float, 10.0, "Time until it reaches the network's own.", FROM_0, "epochs"),
        Key("bn_batch_size", int, {C: 64, S: None}, "Size of the groups of images that BatchNorm normalises over.",
            POSITIVE, "images", none="the whole batch", example=64),
    ),
    "Network": (
        Key("model.name", str, {C: "", S: ""}, "One of dynet_jax.list_models().", example="dy_mobile", set_by=ARMS),
        Key("model.num_classes", int, {C: 1000, S: 19}, "Number of classes.",
            POSITIVE, none="as many as the dataset has", set_by=ARMS),
        Key("model.width", float, 1.0, "Factor of the number of channels.", POSITIVE, set_by=ARMS),
        Key("model.group_size", int, {}, "g_t, the number of fixed kernels per dynamic kernel.",
            POSITIVE, example=6, set_by=ARMS),
        Key("model.coefficients", str, {}, "Coefficients of Dy-mobile.", one_of("dynet", "condconv", "dy_cnn"),
            example="dynet", set_by=ARMS),
        Key("model.hidden_divisor", int, {}, "Divisor of C_in that gives the width of the predictors' hidden layer.",
            POSITIVE, none="no hidden layer", example=4),
        Key("model.min_hidden_features", int, {}, "Minimum width of that layer.", POSITIVE, "features", example=8),
        Key("model.temperature", float, {}, "Divisor of the predictors' logits.", POSITIVE, example=1.0),
        Key("model.normalize_pooled", bool, {}, "Whether a BatchNorm normalises the pooled features of predictors."),
        Key("model.pooled_limit", float, {}, "Standard deviations to which pooled features are clipped in evaluation.",
            POSITIVE, none="no clipping", example=4.0),
        Key("model.small_input", bool, {C: False}, "Whether the stride is 8 instead of 32, for images of about 32 px."),
        Key("model.output_stride", int, {S: 8}, "Stride beyond which dilations replace strides.",
            one_of(8, 16, 32), none="the network's own stride", example=8),
        Key("model.hidden_features", int, {S: 512}, "Width of the segmentation head.", POSITIVE, "channels"),
        Key("model.auxiliary", bool, {S: False}, "Whether training has a second head, on the stage before the last."),
        Key("model.stem", tuple, {}, "Widths of the convolutions of ResNet's stem.", WIDTHS, "channels", example=[64]),
        Key("model.padding", str, {S: "SAME"}, "Padding; 'TORCH' is for weights of PyTorch.", one_of("SAME", "TORCH")),
        Key("model.bn_epsilon", float, {S: 1e-5}, "Number added to BatchNorm's variances.", POSITIVE),
        Key("model.bn_momentum", float, {}, "Share that BatchNorm's running statistics keep at each step.",
            Rule("in [0, 1]", lambda v: 0 <= v <= 1), example=0.9),
        Key("model.bn_unbiased", bool, {}, "Whether running variances are unbiased, as in PyTorch."),
        Key("model.zero_init_residual", bool, {}, "Whether residual blocks start as the identity."),
        Key("model.dropout", float, {}, "Probability with which training drops a feature before the classifier.",
            FRACTION, example=0.2),
        Key("model.stochastic_depth", float, {},
            "Probability with which training drops the branch of the last residual block; less for earlier ones.",
            FRACTION, example=0.1),
        Key("model.remat", bool, False, "Whether the backward pass recomputes blocks to save memory.", free=RESUME),
    ),
    "Data": (
        Key("data.name", str, {C: "imagenet2012", S: "cityscapes"}, "Dataset, see docs/data.md.", set_by="--dataset"),
        Key("data.data_dir", str, None, "Folder, or gs://BUCKET/PATH, of the prepared dataset.",
            FOLDER, none="the dataset's usual one", free=EVALUATION, set_by="--data-dir"),
        Key("data.image_size", int, {C: 224}, "Side of the crops.", POSITIVE, "px"),
        Key("data.resize_to", int, {C: 256}, "Shorter side of a test image before its central crop.", POSITIVE, "px"),
        Key("data.crop", str, {C: "random_resized_crop"}, "Method of cropping training images.",
            one_of("random_resized_crop", "random_shift", "none")),
        Key("data.fast_crop", bool, {C: False},
            "Whether random resized crops are computed in half of the time, within a grey level of the exact ones."),
        Key("data.crop_size", tuple, {S: (512, 1024)}, "Size of the crops.", SIDES, "px"),
        Key("data.eval_size", tuple, {S: (1024, 2048)}, "Size of resized test images.", SIDES, "px", free=EVALUATION),
        Key("data.label_size", tuple, {S: (1024, 2048)}, "Size that fits the largest label of the test set.",
            SIDES, "px", free=EVALUATION),
        Key("data.scale", tuple, {S: (0.5, 2.0)}, "Range of the random scale of training images.", SCALE),
        Key("data.flip", bool, True, "Whether half of the training images are mirrored."),
        Key("data.trivial_augment", bool, {C: False},
            "Whether one random operation of TrivialAugment changes each training image."),
        Key("data.random_erasing", float, {C: 0.0}, "Share of training images of which a rectangle becomes noise.",
            Rule("in [0, 1]", lambda v: 0 <= v <= 1), example=0.1),
        Key("data.color_distortion", bool, {S: True}, "Whether brightness, contrast, hue, ... change at random."),
        Key("data.mean", tuple, IMAGENET_MEAN, "Mean of pixels from 0 to 255; the default is ImageNet's.", MEAN),
        Key("data.std", tuple, IMAGENET_STD, "Standard deviation of pixels from 0 to 255.", STD),
        Key("data.threads", int, None, "Number of decoding threads in each process.",
            POSITIVE, none="the number of cores", example=16, free=EVALUATION),
        Key("data.workers", int, 0, "Number of additional processes that decode.", FROM_0, free=EVALUATION),
        Key("data.cache", bool, False, "Whether encoded images are kept in memory.", free=EVALUATION),
        Key("data.max_corrupt", int, {C: 100, S: 0}, "Number of undecodable images that are tolerated.",
            FROM_0, "images", free=EVALUATION),
        Key("inference", str, {S: "whole"}, "Evaluation of test images: whole, or by sliding windows.",
            one_of("whole", "slide"), free=EVALUATION),
    ),
}
# fmt: on
KEYS: dict[str, Key] = {key.name: key for keys in GROUPS.values() for key in keys}
