"""What a plan will be able to decide, as far as that is known before anything is trained."""

import math
from collections.abc import Iterable

from dynet_jax.reproduce.budgets import family_of
from dynet_jax.reproduce.statistics import decidable

# The standard deviation between seeds of the difference of two networks' test errors, in points: a dynamic network and
# its static twin on the 10,000 test images of CIFAR-10, Dy-ResNet18 at 32 px and width 0.125, Dy-shuffle at 16 px and
# 0.5, Dy-mobile at 16 px and 0.125 (docs/results.md). With fewer images it is larger.
SPREADS, SPREAD_IMAGES = {"ResNets": 0.6, "ShuffleNets": 1.6, "MobileNets": 1.4}, 10_000


def foresee(networks: Iterable[str], seeds: int, test_images: int) -> str:
    """Returns a sentence: the smallest differences that so many seeds can decide, by family of networks.

    >>> foresee(["dy_resnet18", "fix_resnet18"], seeds=3, test_images=10_000).partition(";")[0]
    '3 seeds decide differences of about 1.5 points for ResNets, if seeds vary as on CIFAR-10'
    """
    if seeds < 2:
        return "one seed decides nothing, because seeds differ; use --seeds=3 or more"
    fewer = math.sqrt(max(1.0, SPREAD_IMAGES / test_images))
    families = {family_of(network) for network in networks}
    least = {name: decidable(seeds, fewer * SPREADS[name]) for name in SPREADS if name in families}
    points = ", ".join(f"{difference:.1f} points for {name}" for name, difference in least.items())
    return (
        f"{seeds} seeds decide differences of about {points}, if seeds vary as on CIFAR-10; more --seeds decide "
        "smaller ones"
    )
