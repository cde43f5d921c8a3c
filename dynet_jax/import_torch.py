"""A work directory from weights of torchvision or timm, for `dynet evaluate` and `dynet predict`."""

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynet_jax import bucket
from dynet_jax.config.recipe import paper_recipe
from dynet_jax.data.text import read_class_list
from dynet_jax.errors import UserError
from dynet_jax.models import create_model
from dynet_jax.models.torch_files import read_checkpoint
from dynet_jax.models.torch_weights import (
    is_timm_mobilenet,
    load_torch_weights,
    torch_arguments,
    torch_preprocessing,
    weights_in,
)
from dynet_jax.train.setup import make_run_optimizer
from dynet_jax.train.state import TrainState
from dynet_jax.workdir.checkpoint import Checkpoints
from dynet_jax.workdir.files import claim

IMAGENET_CLASSES = 1000


def import_torch(
    model: str,
    file: Path,
    workdir: Path,
    *,
    labels: Path | None = None,
    state_dict: str | None = None,
    data: Mapping[str, Any] | None = None,
    **arguments,
) -> list[str]:
    """Writes the weights of `file` as a checkpoint of `model` at step 0. Returns lines that describe what was done.

    Args:
      model: a static network of `list_models()`.
      file: see `read_checkpoint`.
      workdir: a new or empty directory.
      labels: a text file with one class name per line. None is ImageNet's 1000 classes, in their usual order.
      state_dict: the name of the weights to use, if a file has several for this network.
      data: keys of `config.data` that differ from `torch_preprocessing`.
      **arguments: arguments of the network, such as width; see `torch_arguments`.
    Raises:
      UserError: if the weights are not of that network, if the number of labels is not that of the outputs, or if the
        directory is not empty.
    """
    bucket.check_access(workdir)
    if (
        bucket.is_folder(workdir)
        if bucket.is_bucket(workdir)
        else workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir()))
    ):
        raise UserError(f"{workdir} exists already; name a new directory")
    content = read_checkpoint(file)
    said: list[str] = []
    try:
        state, taken = weights_in(model, content, state_dict, **arguments)
        said += filter(None, [taken])
        arguments = torch_arguments(model, state, **arguments)
        network: Any = create_model(model, **arguments)  # `torch_arguments` rejects everything but classifiers
        variables = load_torch_weights(network, state)
    except UserError as error:
        raise UserError(" ".join([f"{file}: {error}", *(f"({line})" for line in said)])) from error
    class_names = _class_names(labels, network.num_classes)

    config = paper_recipe(model, **arguments)
    config.data.update(torch_preprocessing(network, state) | dict(data or {}))
    config.dtype = "float32"
    params = jax.tree.map(jnp.asarray, variables["params"])
    optimizer = make_run_optimizer(config, optax.constant_schedule(config.learning_rate))
    step = jnp.zeros((), jnp.int32)
    train_state = TrainState(step, params, jax.tree.map(jnp.asarray, variables["batch_stats"]), optimizer.init(params))
    try:
        claim(workdir, config.lock(), class_names)
        checkpoints = Checkpoints(workdir)
        checkpoints.save(train_state, wait=True)
        checkpoints.close()
    except BaseException:
        bucket.remove(workdir)  # an incomplete work directory would block the next attempt
        raise
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    seen = f"images: shorter side {config.data.resize_to} px, central {config.data.image_size} px, "
    seen += f"mean {_plain(config.data.mean)} and std {_plain(config.data.std)} of pixels from 0 to 255"
    tried = f"{count:,} parameters in {workdir}; try `dynet predict {workdir} IMAGE`"
    return [*said, *_tf_hint(file, network, state), seen, tried]


def _tf_hint(file: Path, network: Any, state: Mapping[str, Any]) -> list[str]:
    """Returns a warning about timm's ports from TensorFlow, which share names and shapes with timm's own weights."""
    if "tf_" not in str(file) or not is_timm_mobilenet(state) or network.padding == "SAME":
        return []
    return [f"WARNING: {file} seems to be of timm's tf_ variants, which need --padding=SAME: import it again with that"]


def _plain(values) -> str:
    return " ".join(f"{value:.7g}" for value in values)


def _class_names(file, count):
    if file is None and count != IMAGENET_CLASSES:
        raise UserError(f"the network has {count} classes; name them with --labels=FILE, one per line")
    if file is None:
        labels = importlib.resources.files("tensorflow_datasets") / "datasets" / "imagenet2012" / "labels.txt"
        return labels.read_text().split()
    if not file.is_file():
        raise UserError(f"there is no file of labels {file}")
    names = read_class_list(file, count)
    if len(names) != count:
        raise UserError(f"{file} names {len(names)} classes, but the network has {count}")
    return names
