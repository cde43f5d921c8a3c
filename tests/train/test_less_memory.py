"""The advice for a lack of memory consists of options that the same command accepts."""

import jax
import pytest

from dynet_jax.config.load import check_config, override
from dynet_jax.devices import make_layout
from dynet_jax.errors import UserError
from dynet_jax.train import loop
from dynet_jax.train.less_memory import less_memory
from dynet_jax.train.setup import make_run

CHANGED_PARTS = {"batch_size": 1024, "accumulation_steps": 2, "bn_batch_size": 64}


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, ["batch_size=32"]),  # a device has one group of BatchNorm, which accumulation would cut
        ({"bn_batch_size": 2}, ["accumulation_steps=2", "batch_size=32"]),
        (CHANGED_PARTS, []),
        ({**CHANGED_PARTS, "bn_batch_size": 16}, ["accumulation_steps=4", "batch_size=512"]),
        ({"bn_batch_size": None}, ["batch_size=32"]),  # the whole batch has to be seen at once
    ],
    ids=str,
)
def test_what_training_advises_is_taken(tiny_config, changes, options, goes_on):
    """There are 8 devices."""
    tiny_config.update_from_flattened_dict(changes)
    layout = make_layout(tiny_config.batch_size, tiny_config.bn_batch_size, tiny_config.accumulation_steps)
    advice = less_memory(make_run(tiny_config, 2000, layout), goes_on=goes_on)
    advised = [word for word in advice.split() if "=" in word]
    wanted = [f"--config.{option}" for option in options if not (goes_on and option.startswith("batch_size"))]
    assert [word for word in advised if "remat" not in word] == wanted
    assert advice.endswith(" or fewer --config.data.threads")
    for word in advised:
        config = tiny_config.copy_and_resolve_references()
        override(config, [word])
        check_config(config)
        make_layout(config.batch_size, config.bn_batch_size, config.accumulation_steps)


@pytest.mark.parametrize(
    "error",
    [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 43 GB"), MemoryError("43 GB"), RuntimeError("std::bad_alloc")],
    ids=lambda error: type(error).__name__,
)
def test_training_says_what_needs_less(tiny_config, tmp_path, monkeypatch, error):
    def refuse(session, programs):
        raise error

    monkeypatch.setattr(loop, "_run", refuse)
    with pytest.raises(UserError, match=r"memory is not enough \(.*\); use --config\..*=.* or fewer .*, or end other"):
        loop.train(tiny_config, tmp_path)


def test_other_errors_keep_their_traceback(tiny_config, tmp_path, monkeypatch):
    def refuse(session, programs):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(loop, "_run", refuse)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        loop.train(tiny_config, tmp_path)
