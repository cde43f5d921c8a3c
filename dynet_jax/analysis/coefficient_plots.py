"""Figures of coefficients over a network's depth, readable in print and by colour-blind people."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np

from dynet_jax.analysis import figures
from dynet_jax.analysis.coefficients import CoefficientSummary
from dynet_jax.analysis.figures import COLORS, STYLES
from dynet_jax.analysis.rank import Rank

NAMED_LAYERS = 60  # maximal number of names along an axis
FEW = 0.001  # share of a layer's values below which they do not widen the figure


def plot_coefficients(summaries: Mapping[str, CoefficientSummary], file: Path, title: str) -> list[Path]:
    """Plots the distribution of the coefficients of every layer: one column per layer, dark where many values are.

    Only the occupied part of [0, 1] is shown. A line connects the means.

    summaries: results of `summarize_coefficients`, in the order of the layers. file: as in `figures.save`, whose
    result is returned.
    """
    from matplotlib.colors import PowerNorm

    layers = list(summaries)
    shares = np.asarray([np.divide(s.histogram, max(1, sum(s.histogram))) for s in summaries.values()])
    figure, axes = figures.subplots(figsize=(_width(layers), 4.6), layout="constrained")
    extent = (-0.5, len(layers) - 0.5, 0, 1)
    image = axes.imshow(100 * shares.T, cmap="Greys", origin="lower", aspect="auto", extent=extent)
    image.set_norm(PowerNorm(0.4, vmin=0))  # makes rare values visible
    means = [summary.mean for summary in summaries.values()]
    axes.plot(range(len(layers)), means, "o-", color=COLORS[1], markersize=3.5, linewidth=1.2, label="mean")
    figure.colorbar(image, ax=axes, label=f"share of values, % per {1 / shares.shape[1]:.3g}", pad=0.01)
    shown = np.flatnonzero((shares >= FEW).any(axis=0))
    axes.set_ylim(max(0, shown[0] - 1) / shares.shape[1], min(shares.shape[1], shown[-1] + 2) / shares.shape[1])
    axes.set(title=title, ylabel="coefficient")
    axes.legend(frameon=False, loc="upper left")
    _name_layers(axes, layers)
    return figures.save(figure, file)


def plot_variation(networks: Mapping[str, Mapping[str, CoefficientSummary]], file: Path, title: str) -> list[Path]:
    """Plots how much coefficients vary between images, over depth, and the share of this between classes.

    networks: {name: result of `summarize_coefficients`}. The dashed line is the expectation for random labels. file: as
    in `figures.save`, whose result is returned.
    """
    longest = max(networks.values(), key=len)
    figure, (images, classes) = figures.subplots(
        2, 1, figsize=(_width(longest), 6.4), sharex=True, layout="constrained"
    )
    for (name, summaries), color, style in zip(networks.items(), cycle(COLORS), cycle(STYLES)):
        places = _places(networks, summaries)
        options = {"color": color, "markersize": 4, "linewidth": 1.5}
        images.plot(places, [s.deviation_of_images for s in summaries.values()], style, label=name, **options)
        shares = [_percent(s.between_classes) for s in summaries.values()]
        classes.plot(places, shares, style, **options)
    chances = [_percent(s.between_random_classes) for s in longest.values()]
    classes.plot(range(len(longest)), chances, "--", color="black", linewidth=1, label="if labels were random")
    images.set(title=title, ylabel="deviation between images")
    classes.set(ylabel="of the variance between images:\nbetween classes, %", ylim=(0, 100))
    images.set_ylim(bottom=0)
    for axes in (images, classes):
        axes.legend(frameon=False)
        figures.plain(axes)
    _name_layers(classes, list(longest) if _same_layers(networks) else None)
    return figures.save(figure, file)


def plot_ranks(networks: Mapping[str, Mapping[str, Rank]], file: Path, title: str) -> list[Path]:
    """Plots effective ranks over depth: of one kernel, in percent of the maximum (above); over the images (below).

    networks: {name: result of `ranks`}, dynamic and static ones. Depthwise convolutions, whose kernels always have
    rank 1, are left out above; without a dynamic network there is no lower panel. file: as in `figures.save`, whose
    result is returned.
    """
    longest = max(networks.values(), key=len)
    dynamic = any(rank.is_dynamic for ranks in networks.values() for rank in ranks.values())
    figure, grid = figures.subplots(
        1 + dynamic, 1, figsize=(_width(longest), 3.4 + 3 * dynamic), sharex=True, layout="constrained", squeeze=False
    )
    for (name, ranks), color, style in zip(networks.items(), cycle(COLORS), cycle(STYLES)):
        places = _places(networks, ranks)
        drawn = [(place, 100 * rank.relative) for place, rank in zip(places, ranks.values()) if rank.largest > 1]
        grid[0, 0].plot(*zip(*drawn), style, color=color, label=name, markersize=4.5, linewidth=0.7)
        drawn = [(place, rank.over_images) for place, rank in zip(places, ranks.values()) if rank.is_dynamic]
        if drawn:
            grid[1, 0].plot(*zip(*drawn), style, color=color, label=name, markersize=4, linewidth=1.5)
    grid[0, 0].set(title=title, ylabel="effective rank of a kernel,\n% of the largest possible")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    if dynamic:
        largest = max(rank.group_size for ranks in networks.values() for rank in ranks.values())
        grid[1, 0].set_ylabel(f"effective rank of a channel's\nkernels over the images (1 to {largest})")
        grid[1, 0].set_ylim(0.95, max(1.5, 1.02 * grid[1, 0].get_ylim()[1]))
    for axes in grid[:, 0]:
        figures.plain(axes)
    _name_layers(grid[-1, 0], list(longest) if _same_layers(networks) else None)
    return figures.save(figure, file)


def _width(layers) -> float:
    return min(14, max(6.5, 2.5 + 0.24 * len(layers)))


def _percent(share: float | None) -> float:
    return np.nan if share is None else 100 * share


def _same_layers(networks: Mapping[str, Mapping]) -> bool:
    """Returns whether the largest network contains all layer names, so that layers can be aligned by name."""
    longest = max(networks.values(), key=len)
    return all(set(layers) <= set(longest) for layers in networks.values())


def _places(networks: Mapping[str, Mapping], layers: Mapping) -> np.ndarray:
    """Returns the layers' positions along the axis: by name, or by depth for networks of different structure."""
    longest = list(max(networks.values(), key=len))
    if _same_layers(networks):
        return np.asarray([longest.index(layer) for layer in layers])
    return np.linspace(0, len(longest) - 1, len(layers))


def _name_layers(axes, layers: list[str] | None) -> None:
    """Names layers below the axis, only some if there are very many. None: networks without common names."""
    if layers is None:
        axes.set_xticks([])
        axes.set_xlabel("depth: the first layer is on the left, the last on the right")
        return
    step = -(-len(layers) // NAMED_LAYERS)
    axes.set_xticks(range(0, len(layers), step), layers[::step], rotation=60, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlim(-0.5, len(layers) - 0.5)
