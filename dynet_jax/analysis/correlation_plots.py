"""Fig. 2 and Fig. 6: the distribution of the correlations between feature maps of several networks."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np

from dynet_jax.analysis import figures
from dynet_jax.analysis.correlation import EDGES, FEW, MIDDLE, STRONG, WEAK, Correlation
from dynet_jax.analysis.figures import COLORS, HATCHES, STYLES

PER_POINT = 5  # bins of the histogram per point, so that lines have 20 points


def plot_correlations(summaries: Mapping[str, Correlation], file: Path, title: str) -> list[Path]:
    """Plots the distributions in one panel, and the shares of strong, middle, weak and no correlation beside it.

    summaries: {entry of the legend: its correlations}; those without pairs are left out.
    file: as in `figures.save`, whose result is returned.
    """
    summaries = {name: summary for name, summary in summaries.items() if summary.pairs}
    figure, (lines, bars) = figures.subplots(
        1, 2, figsize=(12, 4.2 + 0.2 * len(summaries)), layout="constrained", gridspec_kw={"width_ratios": (3, 2)}
    )
    _distributions(lines, summaries)
    _bins(bars, summaries)
    if summaries:
        columns = 1 if max(map(len, summaries)) > 60 else 2
        figure.legend(*lines.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title)
    return figures.save(figure, file)


def _distributions(axes, summaries: Mapping[str, Correlation]) -> None:
    edges = EDGES[::PER_POINT]
    centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    for (name, summary), color, style in zip(summaries.items(), cycle(COLORS), cycle(STYLES)):
        counts = np.reshape(summary.histogram, (-1, PER_POINT)).sum(axis=1)
        told = f"{name} (mean |r| {summary.mean_magnitude:.3f})"
        axes.plot(centres, 100 * counts / summary.pairs, style, color=color, label=told, markersize=5, linewidth=1.6)
    axes.axvspan(*FEW, color="0.9", zorder=0)
    axes.text(np.mean(FEW), 1.0, f"{FEW[0]} to {FEW[1]}", transform=axes.get_xaxis_transform(), fontsize=8,
              ha="center", va="bottom")  # fmt: skip
    axes.set(xlabel="correlation r of two channels", ylabel=f"share of pairs, % per {width:.1f}", xlim=(-1, 1))
    axes.set_ylim(bottom=0)
    figures.plain(axes)


def _bins(axes, summaries: Mapping[str, Correlation]) -> None:
    kinds = {
        f"S\n|r| ≥ {STRONG}": "strong",
        f"M\n≥ {MIDDLE}": "middle",
        f"W\n≥ {WEAK}": "weak",
        f"N\n< {WEAK}": "none",
    }
    thickness = 0.84 / max(1, len(summaries))
    for number, (summary, color, hatch) in enumerate(zip(summaries.values(), cycle(COLORS), cycle(HATCHES))):
        heights = [100 * getattr(summary, kind) for kind in kinds.values()]
        places = np.arange(len(kinds)) - 0.42 + (number + 0.5) * thickness
        drawn = axes.bar(places, heights, thickness, color=color, hatch=hatch, edgecolor="white", linewidth=0.5)
        if len(summaries) <= 4:
            axes.bar_label(drawn, [f"{height:.0f}" for height in heights], fontsize=8, padding=1)
    axes.set_xticks(range(len(kinds)), list(kinds))
    axes.set_ylabel("share of pairs, %")
    figures.plain(axes)
    axes.grid(visible=False, axis="x")
