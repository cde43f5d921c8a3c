"""Numbers as people write them, and a user's own configurations in which keys are None or missing."""

import ml_collections
import pytest

from configs import common
from dynet_jax.config.load import check_config, flatten, load_config, override
from dynet_jax.errors import UserError
from dynet_jax.train.setup import count_steps


def changed(*assignments):
    config = common.recipe("dy_mobile", group_size=6)
    override(config, [f"--config.{assignment}" for assignment in assignments])
    check_config(config)
    return flatten(config)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        *(("learning_rate", text, 0.5) for text in (".5", "+.5", "5e-1", "5E-1", " .5 ", "0.50")),
        *(("learning_rate", text, 5.0) for text in ("5", "5.", "+5", "005.")),
        *(("batch_size", text, 1024) for text in ("1_024", "1024.0", "+1024", "1.024e3", "0x400")),
        *(("data.flip", text, False) for text in ("false", "False", "FALSE")),
        *(("clip_norm", text, None) for text in ("None", "none", "null", "NULL")),
        ("clip_norm", ".1", 0.1),
        *(("data.mean", text, (0.5, 1, 2.5)) for text in ("[.5, 1, 2.5]", "(.5, 1, 2.5)", ".5,1,2.5", "[0.5, 1, 2.5]")),
        ("learning_rate_factors", "[('predictor', .5)]", (("predictor", 0.5),)),
        ("optimizer_arguments.b2", ".95", 0.95),
        ("data.name", "1_0", "1_0"),  # what is a text stays as it is written
    ],
)
def test_a_number_may_be_written_in_any_usual_way(key, text, expected):
    value = changed(f"{key}={text}")[key]
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("learning_rate=0,1", "learning_rate must be float, like 0.8, not '0,1'"),
        ("learning_rate=1/10", "learning_rate must be float, like 0.8, not '1/10'"),
        ("learning_rate=10%", "learning_rate must be float, like 0.8, not '10%'"),
        ("learning_rate=1j", "learning_rate must be float, like 0.8, not '1j'"),
        ("learning_rate=nan", "learning_rate must be finite, not nan"),
        ("learning_rate=-inf", "learning_rate must be finite, not -inf"),
        ("learning_rate=1e999", "learning_rate must be finite, not inf"),
        ("learning_rate=1" + 400 * "0", "learning_rate must be finite, not inf"),
        ("optimizer_arguments.b2=nan", "optimizer_arguments.b2 must be finite, not nan"),
        ("batch_size=1e-3", "batch_size must be int, like 2048, not '1e-3'"),
        ("batch_size=" + 9000 * "(", "batch_size must be int, like 2048, not '((("),
        ("data.mean=[nan, 1, 2]", "data.mean must be list, like [123.675, 116.28, 103.53], not '[nan, 1, 2]'"),
        ("data.mean=[NaN, 1, 2]", "data.mean must be three numbers, of red, green and blue, not (nan, 1, 2)"),
    ],
)
def test_what_is_no_number_is_refused_by_one_line(assignment, message):
    with pytest.raises(UserError) as caught:
        changed(assignment)
    assert str(caught.value).startswith(message)


def test_more_steps_than_can_be_counted():
    config = load_config("dy_mobile:digits").unlock()
    config.epochs = 1e300
    with pytest.raises(UserError, match=r"^epochs=1e\+300 are more than 2\^31 steps at 15 an epoch; use fewer$"):
        count_steps(config, 1000)


# Files of one's own


def own(tmp_path, *lines):
    """A recipe with some lines of a user's own."""
    path = tmp_path / "mine.py"
    body = "".join(f"  {line}\n" for line in lines)
    path.write_text(
        "from ml_collections import config_dict\nfrom configs import common\n"
        f"def get_config():\n  config = common.recipe('dy_mobile', 'digits').unlock()\n{body}  return config\n"
    )
    return load_config(str(path))


@pytest.mark.parametrize(
    "default", ["None", "config_dict.placeholder(int)", "config_dict.placeholder(float)", "2", "2.5"]
)
def test_a_key_may_be_anything_in_a_file_before_it_is_set(tmp_path, default):
    config = own(tmp_path, "del config.epochs", f"config.epochs = {default}")
    override(config, ["--config.epochs=7.5"])
    check_config(config)
    assert config.epochs == 7.5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "del config.epochs; config.epochs = config_dict.required_placeholder(float)",
            "epochs must be float, like 300.0, not None",
        ),
        ("config.batch_size = None", "batch_size must be int, like 2048, not None"),
        ("config.model = None", "model.name must be str, like 'dy_mobile', not None; set --config.model.name=NETWORK"),
        ("config.data = None", "data must be a section of keys, not None; start from"),
        ("config.optimizer_arguments = None", "optimizer_arguments must be a section of keys, not None; start from"),
        ("del config.schedule_arguments", "schedule_arguments must be a section of keys, not None; start from"),
        (
            "del config.model.name; config.model.name = None",
            "model.name must be str, like 'dy_mobile', not None; set --config.model.name=",
        ),
        ("del config.model.name", "model.name must be str, like 'dy_mobile', not None; set --config.model.name="),
    ],
)
def test_what_a_file_leaves_open_is_named(tmp_path, line, message):
    config = own(tmp_path, "with config.ignore_type():", f"  {line}")

    def check():
        override(config, ["--config.model.padding=TORCH"])
        check_config(config)

    with pytest.raises(UserError) as caught:
        check()
    assert str(caught.value).startswith(message)


def test_the_network_may_be_named_on_the_command_line_alone(tmp_path):
    config = own(tmp_path, "del config.model.name", "config.model.name = config_dict.placeholder(str)")
    override(config, ["--config.model.group_size=2", "--config.model.name=dy_resnet18"])
    check_config(config)
    assert (config.model.name, config.model.group_size) == ("dy_resnet18", 2)


def test_a_configuration_that_begins_from_nothing():
    config = ml_collections.ConfigDict({"epochs": None})
    override(config, ["--config.epochs=3"])
    with pytest.raises(UserError, match=r"^model must be a section of keys, not None"):
        check_config(config)
    with pytest.raises(UserError, match=r"^optimizer_arguments must be a section of keys, not None"):
        override(config, ["--config.optimizer_arguments.b2=.9"])
