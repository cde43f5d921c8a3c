"""The names that torchvision and timm give to the layers of networks that this package also has."""

from collections.abc import Callable, Iterator

import flax.linen as nn

from dynet_jax.errors import UserError
from dynet_jax.models.mobilenet import InvertedResidual
from dynet_jax.models.network import Network
from dynet_jax.models.resnet import ResidualBlock
from dynet_jax.models.shufflenet import ShuffleBlock

SCHEMES = ("torchvision", "timm")
Names = Iterator[tuple[str, str]]
_NAMERS: dict[tuple[type[nn.Module], str], Callable[[Network], Names]] = {}


def layer_names(model: Network, scheme: str) -> dict[str, str]:
    """Returns the names there by ours: {'stage1_block1/conv1': 'layer1.0.conv1', ...}.

    Raises UserError if the scheme has no network of this family.
    """
    if (model.block, scheme) not in _NAMERS:
        raise UserError(f"the names of {scheme}'s networks of this family are not known")
    return dict(_NAMERS[model.block, scheme](model))


def schemes_of(model: Network) -> list[str]:
    """Returns the schemes that have networks of this family. Raises UserError if none has."""
    known = [scheme for scheme in SCHEMES if (model.block, scheme) in _NAMERS]
    if not known:
        raise UserError("the names of torchvision's and timm's networks of this family are not known")
    return known


def register_names(block: type[nn.Module], scheme: str) -> Callable:
    """Registers a function that yields (our name, the name there) of the layers of networks with these blocks.

    Names of layers that a network does not have are ignored.
    """

    def register(namer: Callable[[Network], Names]) -> Callable[[Network], Names]:
        _NAMERS[block, scheme] = namer
        return namer

    return register


def _blocks(model):
    """Yields stage, block and index of the block in the whole network, counted from 1, and the spec of each block."""
    index = 0
    for stage, specs in enumerate(model.stages, start=1):
        for block, spec in enumerate(specs, start=1):
            index += 1
            yield stage, block, index, spec


def _conv_norm(ours: str, conv: str, norm: str) -> Names:
    yield ours, conv
    yield f"{ours}_norm", norm


@register_names(ResidualBlock, "torchvision")
@register_names(ResidualBlock, "timm")
def _resnet(model: Network) -> Names:
    if len(model.stem) > 1:
        raise UserError("torchvision and timm have no such network with a stem of several convolutions")
    yield from _conv_norm("stem", "conv1", "bn1")
    for stage, block, _, spec in _blocks(model):
        ours, theirs = f"stage{stage}_block{block}", f"layer{stage}.{block - 1}"
        for i in (1, 2) if spec.hidden_features is None else (1, 2, 3):
            yield from _conv_norm(f"{ours}/conv{i}", f"{theirs}.conv{i}", f"{theirs}.bn{i}")
        yield from _conv_norm(f"{ours}/shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    yield "classifier", "fc"


@register_names(ShuffleBlock, "torchvision")
def _shufflenet_torchvision(model: Network) -> Names:
    yield from _conv_norm("stem", "conv1.0", "conv1.1")
    for stage, block, _, _ in _blocks(model):
        ours, theirs = f"stage{stage}_block{block}", f"stage{stage + 1}.{block - 1}"
        yield from _conv_norm(f"{ours}/project1", f"{theirs}.branch1.0", f"{theirs}.branch1.1")
        yield from _conv_norm(f"{ours}/project2", f"{theirs}.branch1.2", f"{theirs}.branch1.3")
        for conv, position in (("conv1", 0), ("conv2", 3), ("conv3", 5)):
            branch = f"{theirs}.branch2"
            yield from _conv_norm(f"{ours}/{conv}", f"{branch}.{position}", f"{branch}.{position + 1}")
    yield from _conv_norm("head", "conv5.0", "conv5.1")
    yield "classifier", "fc"


@register_names(InvertedResidual, "torchvision")
def _mobilenet_torchvision(model: Network) -> Names:
    v3 = model.hidden_features is not None
    yield from _conv_norm("stem", "features.0.0", "features.0.1")
    for stage, block, index, spec in _blocks(model):
        ours, theirs = f"stage{stage}_block{block}", f"features.{index}.{'block' if v3 else 'conv'}"
        position = 0
        for conv in ("expand", "spatial"):
            if conv == "spatial" or spec.expand:
                yield from _conv_norm(f"{ours}/{conv}", f"{theirs}.{position}.0", f"{theirs}.{position}.1")
                position += 1
        if spec.squeeze_features is not None:
            yield f"{ours}/squeeze_excite/reduce", f"{theirs}.{position}.fc1"
            yield f"{ours}/squeeze_excite/expand", f"{theirs}.{position}.fc2"
            position += 1
        # V2 lists the last convolution and its norm separately, V3 nests them like the others.
        norm = f"{theirs}.{position}.1" if v3 else f"{theirs}.{position + 1}"
        yield from _conv_norm(f"{ours}/project", f"{theirs}.{position}.0" if v3 else f"{theirs}.{position}", norm)
    yield from _conv_norm("head", f"features.{index + 1}.0", f"features.{index + 1}.1")
    yield "hidden", "classifier.0"
    yield "classifier", "classifier.3" if v3 else "classifier.1"


@register_names(InvertedResidual, "timm")
def _mobilenet_timm(model: Network) -> Names:
    v3 = model.hidden_features is not None
    yield from _conv_norm("stem", "conv_stem", "bn1")
    for stage, block, _, spec in _blocks(model):
        ours, theirs = f"stage{stage}_block{block}", f"blocks.{stage - 1}.{block - 1}"
        convs = {"expand": "conv_pw", "spatial": "conv_dw", "project": "conv_pwl"}
        if not spec.expand:
            convs = {"spatial": "conv_dw", "project": "conv_pw"}
        for i, (conv, name) in enumerate(convs.items(), start=1):
            yield from _conv_norm(f"{ours}/{conv}", f"{theirs}.{name}", f"{theirs}.bn{i}")
        yield f"{ours}/squeeze_excite/reduce", f"{theirs}.se.conv_reduce"
        yield f"{ours}/squeeze_excite/expand", f"{theirs}.se.conv_expand"
    head = f"blocks.{len(model.stages)}.0" if v3 else ""
    yield from _conv_norm("head", *((f"{head}.conv", f"{head}.bn1") if v3 else ("conv_head", "bn2")))
    yield "hidden", "conv_head"
    yield "classifier", "classifier"
