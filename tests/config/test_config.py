"""Configurations: reading files, changing single keys, and values that are rejected before anything is computed."""

import json
from pathlib import Path

import pytest

from configs import common
from dynet_jax.cli import train_main
from dynet_jax.config.load import check_config, flatten, load_config, override
from dynet_jax.config.network import build_model
from dynet_jax.config.recipe import paper_recipe
from dynet_jax.errors import UserError
from dynet_jax.models import create_model, registry
from dynet_jax.workdir.files import claim, read_config
from tests.documented_configs import CLASSIFICATION, SEGMENTATION

CONFIGS = Path(__file__).parents[2] / "configs"


def changed(*assignments):
    """dy_mobile's ImageNet recipe with some '--config.' arguments."""
    config = common.recipe("dy_mobile", group_size=6)
    override(config, [f"--config.{assignment}" for assignment in assignments])
    return config


# The files


FOLDERS = {"imagenette": "folder:", "cifar100": "folder:"}
# What the paper's recipe does not have.
NOT_OF_THE_PAPER = ("mixup", "cutmix", "model.dropout", "model.stochastic_depth", "data.random_erasing")


def test_only_the_modern_variant_regularises_more():
    for variant in common.VARIANTS:
        flat = flatten(load_config(f"dy_mobile:{variant}"))
        values = [flat.get(key, 0.0) for key in NOT_OF_THE_PAPER]
        assert values == ([0.2, 1.0, 0.2, 0.1, 0.1] if variant == "modern" else [0.0] * 5)
        assert flat["data.trivial_augment"] == (variant == "modern")
        assert not flat["data.fast_crop"]
    assert "stochastic_depth" not in load_config("dy_shuffle:modern").model  # it has no residual blocks


@pytest.mark.parametrize("variant", common.VARIANTS)
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_every_name_and_variant(name, variant):
    config = load_config(f"configs/{name}.py:{variant}")
    assert config.to_dict() == load_config(f"{name}:{variant}").to_dict()
    check_config(config)
    assert name.startswith(config.model.name)
    arguments = config.model.to_dict()
    model = create_model(arguments.pop("name"), **arguments)
    assert model.num_classes == {"imagenet2012": 1000, "modern": 1000, "cifar100": 100}.get(variant, 10)
    assert config.data.name.startswith({**FOLDERS, "modern": "imagenet2012"}.get(variant, variant))
    assert tuned_for_small_images(config) == (SMALL_IMAGES.get(config.model.name, {}) if "cifar" in variant else {})


# What the variants for CIFAR change beyond the dataset, by docs/results.md.
RESNET = {"learning_rate_factors": (("predictor", 25.0),), "model.hidden_divisor": None}
SMALL_IMAGES = {
    "dy_resnet18": RESNET,
    "dy_resnet50": RESNET,
    "dy_mobile": {"model.normalize_pooled": True},
    "dy_shuffle": {"model.pooled_limit": 4.0},
}


def tuned_for_small_images(config) -> dict:
    flat = flatten(config)
    keys = {key for changes in SMALL_IMAGES.values() for key in changes}
    return {key: flat[key] for key in keys if key in flat and flat[key] != ()}


# By the rows of the paper's Tables 1 and 4.
OTHER_WIDTHS = {"dy_shuffle_1_5": 1.5, "fix_shuffle_1_5": 1.5, "mobilenet_v2_0_6": 0.6, "mobilenet_v2_0_75": 0.75}


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_the_default_is_the_papers_recipe(name):
    """Section 4.1 of the paper, and crops of 224 pixels."""
    config = load_config(f"configs/{name}.py")
    assert config.to_dict() == load_config(f"configs/{name}.py:imagenet2012").to_dict()
    assert config.batch_size == 2048
    assert config.learning_rate == 0.8
    assert config.weight_decay == 5e-5
    assert config.momentum == 0.9
    assert config.label_smoothing == 0.1
    assert (config.data.name, config.data.image_size, config.data.crop) == ("imagenet2012", 224, "random_resized_crop")
    assert config.data.flip
    assert config.model.width == OTHER_WIDTHS.get(name, 1.0)


@pytest.mark.parametrize("variant", common.SEGMENTATION_VARIANTS)
@pytest.mark.parametrize("name", SEGMENTATION)
def test_every_name_for_segmentation(name, variant):
    config = load_config(f"configs/{name}.py:{variant}")
    check_config(config)
    assert name == f"seg_{config.model.name.removeprefix('fcn_')}"
    arguments = config.model.to_dict()
    model = create_model(arguments.pop("name"), **arguments)
    assert (model.num_classes, model.backbone.stride) == (19 if variant == "cityscapes" else 11, 8)
    assert config.data.name.startswith(variant)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_mmsegmentations_recipe(name):
    """Its schedule of 40,000 steps for a dilated FCN on Cityscapes."""
    config = load_config(f"configs/{name}.py")
    assert config.to_dict() == load_config(f"configs/{name}.py:cityscapes").to_dict()
    assert (config.batch_size, round(config.epochs * (2975 // config.batch_size))) == (8, 40_000)
    assert (config.learning_rate, config.schedule, config.momentum) == (0.01, "poly", 0.9)
    assert (config.weight_decay, config.decay_parameters, config.bn_batch_size) == (5e-4, "all", None)
    assert (config.data.crop_size, config.data.scale, config.data.flip) == ((512, 1024), (0.5, 2.0), True)
    assert config.data.color_distortion


def test_missing_file():
    with pytest.raises(
        UserError, match=r"^there is no configuration file .*dy_mobil\.py; did you mean .*dy_mobile\.py"
    ):
        load_config(str(CONFIGS / "dy_mobil.py"))
    with pytest.raises(UserError, match=r"^there is no configuration file nowhere/at_all\.py$"):
        load_config("nowhere/at_all.py:digits")


def test_unknown_name():
    with pytest.raises(UserError, match=r"^unknown network 'dy_mobil', and .* no configuration file .* dy_mobile"):
        load_config("dy_mobil:digits")
    for name in ("dy_mobile_g", "dy_mobile_1", "seg_shufflenet_v2"):
        with pytest.raises(UserError, match="there is no configuration file"):
            load_config(f"configs/{name}.py")


@pytest.mark.parametrize(
    ("file", "network"),
    [("paper", "fix_mobile"), ("paper", None), ("segmentation", "fcn_resnet50"), ("segmentation", None)],
)
def test_a_recipe_of_any_network(file, network):
    config = load_config(f"configs/{file}.py", network)
    usual = {"paper": "dy_mobile", "segmentation": "fcn_dy_resnet50"}[file]
    assert config.to_dict() == load_config(network or usual).to_dict()


def test_a_network_without_a_width(monkeypatch):
    """A setting of the recipe that a network does not have is omitted from its configuration."""

    def plain(num_classes: int = 10):
        return create_model("dy_mobile", num_classes=num_classes, width=0.1)

    monkeypatch.setitem(registry._MODELS, "plain", registry.Registered("plain", plain))
    config = load_config("plain:digits")
    check_config(config)
    assert config.model.to_dict() == {"name": "plain", "num_classes": 10, "small_input": True, "remat": False}
    model = build_model(config)
    assert (model.num_classes, model.stride) == (10, 8)


def test_a_variant_knows_the_network_of_the_command_line(monkeypatch):
    """--config.model.name is known when the variant is made: predictors of Dy-ResNets learn faster on CIFAR."""
    seen = []
    monkeypatch.setattr("dynet_jax.train.loop.train", lambda config, workdir, **_: seen.append(config) or 0)
    assert train_main(["--config=configs/paper.py:cifar10", "--config.model.name=dy_resnet18", "--config.seed=3"]) == 0
    (config,) = seen
    assert (config.model.name, config.seed) == ("dy_resnet18", 3)
    assert tuned_for_small_images(config) == RESNET


def test_unknown_variant():
    with pytest.raises(UserError, match=r"unknown variant 'digit' of this configuration; did you mean digits\?"):
        load_config(f"{CONFIGS / 'dy_mobile.py'}:digit")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def get_config(:\n  pass", r"SyntaxError: .*line 1"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("config = 1", "AttributeError: .*get_config"),
        ("def get_config():\n  return 1", "TypeError: .*takes 0 positional arguments but 1 was given"),
        ("def get_config(variant):\n  return recipe(variant)", "NameError: name 'recipe' is not defined"),
        (
            "from configs import common\n"
            "def get_config(variant):\n"
            "  config = common.recipe('dy_mobile', variant)\n"
            "  config.epoch = 3\n",
            ".*epoch",
        ),
    ],
    ids=["syntax", "import", "no get_config", "no variants", "name", "unknown key"],
)
def test_a_file_with_a_mistake(tmp_path, text, reason):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"mine\.py cannot be used as a configuration: {reason}") as caught:
        load_config(f"{path}:digits")
    assert "\n" not in str(caught.value)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import common\n"
        "def get_config(variant='digits'):\n"
        "  config = common.recipe('dy_mobile', variant)\n"
        "  config.epochs = 3.0\n"
        "  return config\n"
    )
    assert load_config(str(path)).epochs == 3.0


# Single keys


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("batch_size", "256", 256),
        ("learning_rate", "0.25", 0.25),
        ("learning_rate", "1e-3", 0.001),
        ("learning_rate", "1", 1.0),
        ("dtype", "bfloat16", "bfloat16"),
        ("data.name", "folder:/some/where=else", "folder:/some/where=else"),
        ("data.name", "123", "123"),
        ("data.flip", "true", True),
        ("data.flip", "True", True),
        ("data.flip", "false", False),
        ("data.flip", "False", False),
        ("data.mean", "[1, 2.5, 3]", (1, 2.5, 3)),
        ("bn_batch_size", "None", None),
        ("bn_batch_size", "null", None),
        ("bn_batch_size", "16", 16),
        ("data.data_dir", "data", "data"),
        ("data.data_dir", "7", "7"),
        ("data.data_dir", "None", None),
        ("model.group_size", "4", 4),
        ("model.width", "1", 1.0),
    ],
)
def test_override(key, text, expected):
    before = flatten(common.recipe("dy_mobile", group_size=6))
    after = flatten(changed(f"{key}={text}"))
    assert after[key] == expected
    assert type(after[key]) is type(expected)
    assert {k: v for k, v in after.items() if k != key} == {k: v for k, v in before.items() if k != key}


@pytest.mark.parametrize(
    ("assignment", "key", "expected"),
    [
        ("model.padding=TORCH", "model.padding", "TORCH"),
        ("model.bn_epsilon=0.001", "model.bn_epsilon", 0.001),
        ("model.output_stride=8", "model.output_stride", 8),
        ("model.hidden_divisor=4", "model.hidden_divisor", 4),
        ("model.normalize_pooled=true", "model.normalize_pooled", True),
        ("model.zero_init_residual=False", "model.zero_init_residual", False),
        ("model.coefficients=condconv", "model.coefficients", "condconv"),
        ('learning_rate_factors=[["predictor", 100]]', "learning_rate_factors", (["predictor", 100],)),
        ('weight_decays=[["predictor/.*kernel", 0.0], ["head", 1e-4]]', "weight_decays", None),
        ("temperature_from=30", "temperature_from", 30.0),
    ],
)
def test_what_a_network_takes_can_be_set_though_no_file_names_it(assignment, key, expected):
    config = changed(assignment)
    check_config(config)
    if expected is not None:
        assert flatten(config)[key] == expected


def test_keys_that_may_be_none_can_be_changed_twice():
    config = changed("data.data_dir=x", "bn_batch_size=None")
    override(config, ["--config.data.data_dir=None", "--config.bn_batch_size=8"])
    assert (config.data.data_dir, config.bn_batch_size) == (None, 8)
    override(config, ["--config.data.data_dir=y"])
    assert config.data.data_dir == "y"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epoch=3", "the configuration has no key 'epoch'; did you mean epochs or warmup_epochs?"),
        ("data.image_siz=3", "the configuration has no key 'data.image_siz'; did you mean data.image_size"),
        ("image_size=3", "the configuration has no key 'image_size'; did you mean data.image_size"),
        ("data=3", "the configuration has no key 'data'; did you mean data."),
        ("batch_size.x=3", "the configuration has no key 'batch_size.x'; did you mean batch_size"),
        ("batch_size", "write --config.batch_size=VALUE"),
        ("batch_size=many", "batch_size must be int, like 2048, not 'many'"),
        ("batch_size=", "batch_size must be int, like 2048, not ''"),
        ("batch_size=0.5", "batch_size must be int, like 2048, not '0.5'"),
        ("batch_size=true", "batch_size must be int, like 2048, not 'true'"),
        ("batch_size=None", "batch_size must be int, like 2048, not 'None'"),
        ("bn_batch_size=x", "bn_batch_size must be int, like 64, not 'x'"),
        ("learning_rate=[0.1]", "learning_rate must be float, like 0.8, not '[0.1]'"),
        ("learning_rate=true", "learning_rate must be float, like 0.8, not 'true'"),
        ("data.flip=1", "data.flip must be bool, like True, not '1'"),
        ("data.mean=5", "data.mean must be list, like [123.675, 116.28, 103.53], not '5'"),
        ("model.paddin=SAME", "the configuration has no key 'model.paddin'; did you mean model.padding"),
        ("model.parent=1", "the configuration has no key 'model.parent'"),
        ("weight_decays=0", 'weight_decays must be list, like [["predictor", 0.0]], not'),
        ("model.annealed=true", "the configuration has no key 'model.annealed'"),  # temperature_from decides
        ("model.bn_batch_size=8", "the configuration has no key 'model.bn_batch_size'; did you mean bn_batch_size"),
        ("model.hidden_divisor=two", "model.hidden_divisor must be int, like 4, not 'two'"),
        ("model.normalize_pooled=1", "model.normalize_pooled must be bool, like False, not '1'"),
        ("learning_rate_factors=predictor", 'learning_rate_factors must be list, like [["predictor", 10.0]], not'),
        ("temperature_from=hot", "temperature_from must be float, like 30.0, not 'hot'"),
    ],
)
def test_override_refuses(assignment, message):
    with pytest.raises(UserError) as caught:
        changed(assignment)
    assert str(caught.value).startswith(message)


# Ranges


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        *((f"{key}=0", f"{key} must be positive, not 0") for key in ("batch_size", "accumulation_steps", "epochs")),
        *((f"{key}=-1", f"{key} must be positive, not -1") for key in ("data.image_size", "data.resize_to")),
        *((f"{key}=0", f"{key} must be positive, not 0") for key in ("log_every_steps", "checkpoint_every_steps")),
        *((f"{key}=0", f"{key} must be positive, not 0") for key in ("keep_checkpoints", "eval_every_epochs")),
        ("data.threads=0", "data.threads must be positive, or None for the number of cores, not 0"),
        *((f"{key}=-0.5", f"{key} must be 0 or more, not -0.5") for key in ("learning_rate", "weight_decay")),
        ("warmup_epochs=-1", "warmup_epochs must be 0 or more, not -1"),
        ("seed=-1", "seed must be from 0 to 2^32 - 1, not -1"),
        ("seed=4294967296", "seed must be from 0 to 2^32 - 1, not 4294967296"),
        ("label_smoothing=1", r"label_smoothing must be in [0, 1), not 1.0"),
        ("label_smoothing=-0.1", r"label_smoothing must be in [0, 1), not -0.1"),
        ("momentum=1", r"momentum must be in [0, 1), not 1.0"),
        ("momentum=-0.1", r"momentum must be in [0, 1), not -0.1"),
        ("bn_batch_size=0", "bn_batch_size must be positive, or None for the whole batch, not 0"),
        ("warmup_epochs=1000", "warmup_epochs=1000.0 must be less than epochs="),
        ("data.resize_to=223", "data.resize_to=223 is less than data.image_size=224"),
        ("dtype=float16", "dtype must be 'float32' or 'bfloat16', not 'float16'"),
        ("epochs=Infinity", "epochs must be finite, not inf"),
        ("learning_rate=NaN", "learning_rate must be finite, not nan"),
        ("model.width=Infinity", "model.width must be finite, not inf"),
        ("data.mean=[1, 2]", "data.mean must be three numbers, of red, green and blue, not (1, 2)"),
        ('data.std=[1, "2", 3]', "data.std must be three positive numbers, of red, green and blue, not (1, '2', 3)"),
        ("data.std=[1, 0, 1]", "data.std must be three positive numbers, of red, green and blue, not (1, 0, 1)"),
        ('learning_rate_factors=["predictor", 100]', "learning_rate_factors must be pairs of a pattern and a number"),
        ('learning_rate_factors=[["(", 100]]', "learning_rate_factors has '(', which is not a regular expression"),
        ('learning_rate_factors=[["a", "b"]]', "learning_rate_factors must have numbers from 0 up, not 'b' for 'a'"),
        ('learning_rate_factors=[["a", true]]', "learning_rate_factors must have numbers from 0 up, not True for 'a'"),
        ('weight_decays=[["a", -1]]', "weight_decays must have numbers from 0 up, not -1 for 'a'"),
        ('weight_decays=[["a", NaN]]', "weight_decays must have numbers from 0 up, not nan for 'a'"),
        (
            "temperature_from=0",
            "temperature_from must be positive, or None for the network's own from the start, not 0",
        ),
        ("temperature_epochs=-1", "temperature_epochs must be 0 or more, not -1"),
    ],
)
def test_values_out_of_range(assignment, message):
    config = changed(assignment)
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "assignments",
    [
        ("learning_rate=0", "weight_decay=0", "warmup_epochs=0", "seed=0", "momentum=0", "label_smoothing=0"),
        ("batch_size=1", "epochs=0.01", "warmup_epochs=0", "data.image_size=1", "data.resize_to=1"),
        ("bn_batch_size=None", "seed=4294967295", "data.resize_to=224", "data.mean=[0, 0, 0]"),
    ],
)
def test_values_at_the_edge_of_their_range(assignments):
    check_config(changed(*assignments))


# In a work directory


def test_a_work_directory_keeps_the_configuration(tmp_path):
    config = changed("bn_batch_size=None", "data.data_dir=somewhere")
    claim(tmp_path, config, ["a", "b"])
    kept = flatten(read_config(tmp_path))
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in kept.items()} == flatten(config)


def test_not_a_work_directory(tmp_path):
    with pytest.raises(UserError, match=r"is not a work directory of train\.py: it has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"epochs": 3})[:-2])
    with pytest.raises(UserError, match=r"config\.json is not a configuration of train\.py: "):
        read_config(tmp_path)


def test_a_work_directory_of_before_a_key_was_there_has_its_default(tmp_path):
    saved = paper_recipe("dy_mobile").to_dict()
    del saved["model"]["remat"], saved["data"]["max_corrupt"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    config = read_config(tmp_path)
    assert (config.model.remat, config.data.max_corrupt) == (False, paper_recipe("").data.max_corrupt)


def test_an_argument_that_is_none_is_not_one_that_is_absent(tmp_path):
    """Dy-ResNet18 has a hidden layer where it is not told; None means none."""
    before = common.recipe("dy_resnet18", "fashion_mnist", group_size=6)
    claim(tmp_path, before, ["a"])
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    claim(tmp_path, changed_resnet("model.hidden_divisor=4"), ["a"])
    with pytest.raises(UserError, match=r"was trained with model\.hidden_divisor=4, not None"):
        claim(tmp_path, changed_resnet("model.hidden_divisor=None"), ["a"])


def changed_resnet(assignment):
    config = common.recipe("dy_resnet18", "fashion_mnist", group_size=6)
    override(config, [f"--config.{assignment}"])
    return config


def test_an_option_of_predictors_for_a_static_network():
    with pytest.raises(
        UserError, match=r"model\.hidden_divisor is for coefficient predictors, and fix_mobile is static"
    ):
        override(common.recipe("fix_mobile"), ["--config.model.hidden_divisor=8"])
