"""The comparisons of `benchmarks.throughput`."""

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

from dynet_jax import create_model
from dynet_jax.models.mobilenet import BlockSpec
from dynet_jax.models.registry import list_models, model_info

FRAMEWORKS = ("jax", "torch")
PASSES = ("training", "inference")


TORCH_PACKAGES = ("torch", "torchvision", "timm")


def has_pytorch() -> bool:
    """Returns whether PyTorch and its networks are installed."""
    return all(importlib.util.find_spec(package) for package in TORCH_PACKAGES)


class Subject(NamedTuple):
    """A network of one framework, and those of the same framework to compare it with."""

    framework: str
    network: str
    base: str
    twin: str | None = None
    form: str = "auto"  # of its dynamic convolutions, by `benchmarks.network_forms`

    def __str__(self):
        return f"{self.framework} {self.network}" + ("" if self.form == "auto" else f" ({self.form})")

    def in_forms(self, forms: Sequence[str]) -> list["Subject"]:
        """Returns the subject in every form; static networks, and those of PyTorch, have one."""
        dynamic = self.framework == "jax" and self.twin is not None
        return [self._replace(form=form) for form in forms] if dynamic else [self]


def _ours(*names: str) -> list[Subject]:
    """Returns networks of this package, with their registered bases and twins."""
    return [Subject("jax", info.name, info.base or info.name, info.twin) for info in map(model_info, names)]


# The base of a family has the same name in both frameworks.
FAMILIES = {
    "mobile": [
        *_ours("mobilenet_v2", "dy_mobile", "fix_mobile"),
        Subject("torch", "mobilenet_v2", "mobilenet_v2"),
        Subject("torch", "condconv_mobile", "mobilenet_v2", twin="fix_mobile"),
        Subject("torch", "fix_mobile", "mobilenet_v2"),
        Subject("torch", "efficientnet_cc_b0_4e", "mobilenet_v2"),
    ],
    **{
        name: [*_ours(name, f"dy_{name}", f"fix_{name}"), Subject("torch", name, name)]
        for name in ("resnet18", "resnet50")
    },
    "shuffle": [
        *_ours("shufflenet_v2", "dy_shuffle", "fix_shuffle"),
        Subject("torch", "shufflenet_v2", "shufflenet_v2"),
    ],
}


class Cell(NamedTuple):
    subject: Subject
    batch: int
    which: str  # of PASSES

    def __str__(self):
        return f"{self.subject}, {self.which}, batch {self.batch}"

    def beside(self, network: str | None, framework: str | None = None) -> "Cell":
        """Returns the cell of another network under the same conditions."""
        found = [s for f in FAMILIES.values() for s in f if s.network == network]
        wanted = framework or self.subject.framework
        return self._replace(subject=next((s for s in found if s.framework == wanted), None))


def torch_names(network: str) -> dict[str, str | None]:
    """Returns the names of a network of this package in timm and torchvision; those of others are timm's own."""
    if network not in list_models():
        return {"timm": network, "torchvision": None}
    return {"timm": model_info(network).timm, "torchvision": model_info(network).torchvision}


def frame(width: float) -> dict:
    """Returns Dy-mobile's convolutions as plain numbers, for a process without JAX."""
    model = create_model("dy_mobile", width=width)
    blocks = [_convolutions(spec) for stage in model.planned_stages for spec in stage]
    return {"stem": model.planned_stem[0]._asdict(), "blocks": blocks, "head": model.head._asdict()}


def _convolutions(spec: BlockSpec) -> list[dict]:
    one = {"kernel_size": 1, "strides": 1, "feature_group_count": 1}
    middle = {"kernel_size": spec.kernel_size, "strides": spec.strides}
    middle |= {"features": spec.hidden_features, "feature_group_count": spec.feature_group_count}
    first = [one | {"features": spec.hidden_features}] if spec.expand else []
    return [*first, middle, one | {"features": spec.features}]
