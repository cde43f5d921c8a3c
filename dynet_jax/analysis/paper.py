"""The cost of the paper's networks, as published and as counted here."""

from typing import Any, NamedTuple

from dynet_jax.analysis.macs import MacCount, count_macs
from dynet_jax.models import create_model
from dynet_jax.models.fcn import FCN

M, MI, GI = 10**6, 2**20, 2**30

# What a published number counts.
COUNTED = {
    "convolutions": lambda count: count.convolution,
    "convolutions + classifier": lambda count: count.convolution + count.classifier,
    "all but the classifier": lambda count: count.total - count.classifier,
    "all": lambda count: count.total,
}


class PaperRow(NamedTuple):
    """One published number of multiply-adds ("FLOPs" in the paper), with the convention that reproduces it.

    Attributes:
      table: of the paper.
      label: as the paper calls the network.
      model, arguments: of `create_model`.
      published: in `unit`s.
      counted: a key of `COUNTED`.
      unit: 1e6 or 2^20. The paper does not say; it mixes them.
      image_size: pixels, square.
      head_features: of the FCN head of Table 3, or None for the classifier.
    """

    table: str
    label: str
    model: str
    arguments: dict[str, Any]
    published: float
    counted: str
    unit: int
    image_size: int = 224
    head_features: int | None = None

    def count(self) -> MacCount:
        model = create_model(self.model, **self.arguments)
        if self.head_features is not None:
            model = FCN(model, num_classes=19, hidden_features=self.head_features)
        return count_macs(model, (self.image_size, self.image_size, 3))

    @property
    def ours(self) -> float:
        """Our count by the row's convention, in its unit."""
        return COUNTED[self.counted](self.count()) / self.unit


CONVOLUTIONS, WITH_CLASSIFIER, WITHOUT_CLASSIFIER, ALL = COUNTED
STRIDE8, PSPNET_STEM = {"output_stride": 8}, {"stem": (64, 64, 128)}

# The numbers of the first public version (September 2019) and, as "later", those that the ICLR submission has for the
# same networks. Table 1's other rows are of networks that this package does not have.
ROWS = (
    PaperRow("1", "Dy-shuffle (1.0)", "dy_shuffle", {}, 88, CONVOLUTIONS, MI),
    PaperRow("1 later", "Dy-shuffle (1.0)", "dy_shuffle", {}, 92, WITHOUT_CLASSIFIER, MI),
    PaperRow("1", "Dy-mobile (1.0)", "dy_mobile", {}, 129, CONVOLUTIONS, M),
    PaperRow("1 later", "Dy-mobile (1.0)", "dy_mobile", {}, 135, WITHOUT_CLASSIFIER, M),
    PaperRow("1", "Dy-ResNet18", "dy_resnet18", {}, 550, WITH_CLASSIFIER, MI),
    PaperRow("1 later", "Dy-ResNet18", "dy_resnet18", {}, 567, ALL, MI),
    PaperRow("1", "Dy-ResNet50", "dy_resnet50", {}, 1075, WITH_CLASSIFIER, MI),
    PaperRow("1 later", "Dy-ResNet50", "dy_resnet50", {}, 1116, ALL, MI),
    PaperRow("1", "ShuffleNetV2 (1.0)", "shufflenet_v2", {}, 146, ALL, M),
    PaperRow("1", "MobileNetV2 (1.0)", "mobilenet_v2", {}, 298, CONVOLUTIONS, M),
    PaperRow("1", "ResNet18", "resnet18", {}, 1730, ALL, MI),
    PaperRow("1", "ResNet50", "resnet50", {}, 3890, ALL, MI),
    PaperRow("1", "MobileNetV2 (0.75)", "mobilenet_v2", {"width": 0.75}, 145, ALL, M),
    PaperRow("1", "MobileNetV2 (0.6)", "mobilenet_v2", {"width": 0.6}, 141, ALL, M),
    PaperRow("3", "ResNet50 FCN", "resnet50", PSPNET_STEM | STRIDE8, 310.8, ALL, GI, 769, head_features=512),
    PaperRow("3", "Dy-ResNet50 FCN", "dy_resnet50", STRIDE8, 95.6, CONVOLUTIONS, GI, 769, head_features=512),
    PaperRow("4", "Dy-mobile (1.0)", "dy_mobile", {}, 129, CONVOLUTIONS, M),
    PaperRow("4", "Fix-mobile (1.0)", "fix_mobile", {}, 129, CONVOLUTIONS, M),
    PaperRow("4", "Dy-shuffle (1.5)", "dy_shuffle", {"width": 1.5}, 171, CONVOLUTIONS, MI),
    PaperRow("4", "Fix-shuffle (1.5)", "fix_shuffle", {"width": 1.5}, 171, CONVOLUTIONS, MI),
)
