"""The paper's results on ImageNet, at width 1.0 (1.5 for Dy-shuffle and Fix-shuffle of Table 4)."""

from dynet_jax.reproduce.arms import Arm

# Top-1 errors in %, by (network, g_t).
ERRORS: dict[str, dict[tuple[str, int | None], float]] = {
    "table1": {
        ("dy_shuffle", 6): 29.60,
        ("dy_mobile", 6): 28.27,
        ("dy_resnet18", 6): 31.01,
        ("dy_resnet50", 6): 23.75,
        ("shufflenet_v2", None): 30.60,
        ("mobilenet_v2", None): 28.00,
        ("resnet18", None): 30.41,
        ("resnet50", None): 23.67,
    },
    "table4": {
        ("dy_mobile", 6): 28.27,
        ("fix_mobile", None): 33.57,
        ("dy_shuffle", 6): 27.48,
        ("fix_shuffle", None): 30.30,
    },
    "table5": {("dy_mobile", 1): 30.85, ("dy_mobile", 2): 29.43, ("dy_mobile", 4): 28.69, ("dy_mobile", 6): 28.27},
    "table6": {("dy_resnet18", 1): 33.80, ("dy_resnet18", 6): 31.01},
}


def paper_error(experiment: str, arm: Arm) -> float | None:
    """Returns the error in % of this network at the paper's own size; None if the paper has none."""
    if arm.coefficients is not None:
        return None
    return ERRORS.get(experiment, {}).get((arm.network, arm.group_size))


def paper_difference(experiment: str, dynamic: Arm, other: Arm) -> float | None:
    """Returns the dynamic network's error minus the other's, in points."""
    own, others = paper_error(experiment, dynamic), paper_error(experiment, other)
    return None if own is None or others is None else own - others
