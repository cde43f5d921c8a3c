"""The cost of the paper's networks, as published and as counted here."""

from typing import NamedTuple

from dynet_jax.analysis.subject import Subject

M, MI, GI = 10**6, 2**20, 2**30
UNIT_NAMES = {M: "1e6", MI: "Mi", GI: "Gi"}

# Conventions of a published number.
COUNTED = {
    "convolutions": lambda count: count.convolution,
    "convolutions + classifier": lambda count: count.convolution + count.classifier,
    "all but the classifier": lambda count: count.total - count.classifier,
    "all": lambda count: count.total,
}
CONVOLUTIONS, WITH_CLASSIFIER, WITHOUT_CLASSIFIER, ALL = COUNTED


class PaperRow(NamedTuple):
    """One published number of multiply-adds ("FLOPs" in the paper), with the convention that reproduces its kind.

    Attributes:
      table: the table of the paper.
      label: the paper's name of the network.
      subject: the network here.
      published: the number, in `unit`.
      counted: a key of `COUNTED`; the same for networks that one version of the paper compares with each other.
      unit: 1e6, 2^20 or 2^30. The paper does not say which, and mixes them.
    """

    table: str
    label: str
    subject: Subject
    published: float
    counted: str
    unit: int

    @property
    def ours(self) -> float:
        """Returns our count by the row's convention, in its unit."""
        return COUNTED[self.counted](self.subject.count) / self.unit

    @property
    def difference(self) -> float:
        """Returns the relative difference of our number from the published one."""
        return self.ours / self.published - 1


def rows_of(subject: Subject) -> list[PaperRow]:
    """Returns the paper's numbers for exactly this network."""
    return [row for row in ROWS if row.subject == subject.normalized]


DY_SHUFFLE, DY_MOBILE = Subject("dy_shuffle", {}), Subject("dy_mobile", {})
DY_RESNET18, DY_RESNET50 = Subject("dy_resnet18", {}), Subject("dy_resnet50", {})
RESNET50_FCN = Subject("fcn_resnet50", {"stem": (64, 64, 128)}, 769)  # PSPNet's stem
DY_RESNET50_FCN = Subject("fcn_dy_resnet50", {}, 769)

# The numbers of the first public version (September 2019) and, as "later", those of the ICLR submission for the same
# networks. Other rows of Table 1 are networks that this package does not have.
ROWS = (
    PaperRow("1", "Dy-shuffle (1.0)", DY_SHUFFLE, 88, CONVOLUTIONS, MI),
    PaperRow("1 later", "Dy-shuffle (1.0)", DY_SHUFFLE, 92, WITHOUT_CLASSIFIER, MI),
    PaperRow("1", "Dy-mobile (1.0)", DY_MOBILE, 129, CONVOLUTIONS, M),
    PaperRow("1 later", "Dy-mobile (1.0)", DY_MOBILE, 135, WITHOUT_CLASSIFIER, M),
    PaperRow("1", "Dy-ResNet18", DY_RESNET18, 550, WITH_CLASSIFIER, MI),
    PaperRow("1 later", "Dy-ResNet18", DY_RESNET18, 567, ALL, MI),
    PaperRow("1", "Dy-ResNet50", DY_RESNET50, 1075, WITH_CLASSIFIER, MI),
    PaperRow("1 later", "Dy-ResNet50", DY_RESNET50, 1116, ALL, MI),
    PaperRow("1", "ShuffleNetV2 (1.0)", Subject("shufflenet_v2", {}), 146, ALL, M),
    PaperRow("1", "MobileNetV2 (1.0)", Subject("mobilenet_v2", {}), 298, CONVOLUTIONS, M),
    PaperRow("1", "ResNet18", Subject("resnet18", {}), 1730, ALL, MI),
    PaperRow("1", "ResNet50", Subject("resnet50", {}), 3890, ALL, MI),
    PaperRow("1", "MobileNetV2 (0.75)", Subject("mobilenet_v2", {"width": 0.75}), 145, ALL, M),
    PaperRow("1", "MobileNetV2 (0.6)", Subject("mobilenet_v2", {"width": 0.6}), 141, ALL, M),
    PaperRow("3", "ResNet50, FCN", RESNET50_FCN, 310.8, CONVOLUTIONS, GI),
    PaperRow("3", "Dy-ResNet50, FCN", DY_RESNET50_FCN, 95.6, CONVOLUTIONS, GI),
    PaperRow("4", "Dy-mobile (1.0)", DY_MOBILE, 129, CONVOLUTIONS, M),
    PaperRow("4", "Fix-mobile (1.0)", Subject("fix_mobile", {}), 129, CONVOLUTIONS, M),
    PaperRow("4", "Dy-shuffle (1.5)", Subject("dy_shuffle", {"width": 1.5}), 171, CONVOLUTIONS, MI),
    PaperRow("4", "Fix-shuffle (1.5)", Subject("fix_shuffle", {"width": 1.5}), 171, CONVOLUTIONS, MI),
)
