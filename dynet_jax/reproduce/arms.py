"""An arm of a comparison: a network with its arguments, trained once per seed."""

from typing import NamedTuple

from dynet_jax.analysis.subject import Subject
from dynet_jax.models.registry import create_model, is_dynamic, model_info


class Arm(NamedTuple):
    """`create_model(network, width=width, ...)`; group_size and coefficients are None for static networks."""

    network: str
    width: float
    group_size: int | None = None
    coefficients: str | None = None

    @property
    def arguments(self) -> dict[str, float | int | str]:
        """Returns the arguments of `create_model`, except the number of classes."""
        given = {"width": self.width, "group_size": self.group_size, "coefficients": self.coefficients}
        return {key: value for key, value in given.items() if value is not None}

    @property
    def name(self) -> str:
        """Returns the name of files.

        >>> Arm("dy_mobile", 0.25, group_size=2).name
        'dy_mobile-w0.25-g2'
        """
        parts = [self.network, f"w{self.width:g}"]
        parts += [f"g{self.group_size}"] if self.group_size else []
        return "-".join(parts + ([self.coefficients] if self.coefficients else []))

    @property
    def title(self) -> str:
        """Returns the name in reports.

        >>> Arm("dy_mobile", 0.25, group_size=6, coefficients="condconv").title
        'Dy-mobile (0.25), g_t = 6, condconv coefficients'
        """
        title = f"{model_info(self.network).title} ({self.width:g})"
        title += f", g_t = {self.group_size}" if self.group_size else ""
        return title + (f", {self.coefficients} coefficients" if self.coefficients else "")

    @property
    def is_dynamic(self) -> bool:
        return is_dynamic(create_model(self.network))

    def macs(self, image_size: int, num_classes: int, small_input: bool) -> int:
        """Returns the multiply-adds of one image, including fusion, predictors and classifier."""
        arguments = {**self.arguments, "num_classes": num_classes, "small_input": small_input}
        return Subject(self.network, arguments, image_size).count.total
