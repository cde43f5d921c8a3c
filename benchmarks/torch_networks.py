"""The PyTorch networks of `benchmarks.throughput`: those of timm and torchvision, and Dy-mobile's frame around timm's
CondConv layers.
"""

import timm
import torch
import torchvision
from timm.layers import CondConv2d
from torch import nn

OF_FRAME = {"condconv_mobile": 6, "fix_mobile": None}  # the experts of each layer


def create(
    name: str, frame: dict, timm_name: str | None = None, torchvision_name: str | None = None, num_classes: int = 1000
) -> nn.Module:
    """Returns a network: of the frame, or else timm's, or else torchvision's."""
    if name in OF_FRAME:
        return FrameNetwork(frame, OF_FRAME[name], num_classes)
    if timm_name is not None:
        return timm.create_model(timm_name, num_classes=num_classes)
    return torchvision.models.get_model(torchvision_name, num_classes=num_classes)


class FrameNetwork(nn.Module):
    """Dy-mobile's convolutions, given as numbers, each with `experts` kernels of timm's CondConv, or plain ones.

    As in Dy-mobile, the block's input determines all its convolutions. Unlike there, output channels share their
    coefficients, which makes the fusion cheaper.
    """

    def __init__(self, frame: dict, experts: int | None, num_classes: int):
        super().__init__()
        self.stem = _Conv(3, frame["stem"], None, activate=True)
        channels, blocks = frame["stem"]["features"], []
        for spec in frame["blocks"]:
            blocks.append(_Block(channels, spec, experts))
            channels = spec[-1]["features"]
        self.blocks = nn.ModuleList(blocks)
        self.head = _Conv(channels, frame["head"], None, activate=True)
        self.classifier = nn.Linear(frame["head"]["features"], num_classes)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.head(x).mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, channels: int, specs: list[dict], experts: int | None):
        super().__init__()
        self.residual = channels == specs[-1]["features"] and all(spec["strides"] == 1 for spec in specs)
        self.router = nn.Linear(channels, experts * len(specs)) if experts else None
        convs = []
        for index, spec in enumerate(specs):
            inputs = specs[index - 1]["features"] if index else channels
            convs.append(_Conv(inputs, spec, experts, activate=index < len(specs) - 1))
        self.convs = nn.ModuleList(convs)

    def forward(self, x):
        routes = [None] * len(self.convs)
        if self.router is not None:
            routes = torch.sigmoid(self.router(x.mean((2, 3)))).chunk(len(self.convs), 1)
        y = x
        for conv, route in zip(self.convs, routes):
            y = conv(y, route)
        return x + y if self.residual else y


class _Conv(nn.Module):
    def __init__(self, inputs: int, spec: dict, experts: int | None, activate: bool):
        super().__init__()
        size = spec["kernel_size"]
        options = {"stride": spec["strides"], "padding": size // 2, "groups": spec["feature_group_count"]}
        conv, more = (CondConv2d, {"num_experts": experts}) if experts else (nn.Conv2d, {})
        self.conv = conv(inputs, spec["features"], size, bias=False, **options, **more)
        self.norm = nn.BatchNorm2d(spec["features"])
        self.activate = activate

    def forward(self, x, route=None):
        y = self.norm(self.conv(x) if route is None else self.conv(x, route))
        return nn.functional.relu6(y) if self.activate else y
