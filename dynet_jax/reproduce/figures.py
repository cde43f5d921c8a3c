"""The report's figures of errors, which distinguish arms by marker and line as well as by colour."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from dynet_jax.analysis import figures
from dynet_jax.analysis.figures import COLORS, STYLES
from dynet_jax.models.registry import model_info
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.statistics import Sample

Quartiles = tuple[float, float, float]
MARKERS = "os^DvPX*ph<>d"  # one per network; a family shares a colour, and so do the coefficients of related methods
SEED_COLORS = tuple(color for color in COLORS if color != "#F0E442")  # yellow lines are invisible on white


def plot_pairs(pairs: Sequence[tuple[str, str, Sequence[int], Sample, Sample]], file: Path, title: str) -> list[Path]:
    """Plots errors of (dynamic, other) side by side, one line per seed; it rises if the dynamic network is better.

    pairs: (dynamic's name, the other's, seeds, errors of both for these seeds).
    """
    figure, row = figures.subplots(
        1, len(pairs), figsize=(max(7, 3.1 * len(pairs)), 4), squeeze=False, layout="constrained"
    )
    for axes, (dynamic, other, seeds, first, second) in zip(row[0], pairs):
        for seed, a, b in zip(seeds, first.values, second.values):
            style, color = STYLES[seed % len(STYLES)], SEED_COLORS[seed % len(SEED_COLORS)]
            axes.plot((0, 1), (a, b), style, color=color, label=f"seed {seed}", linewidth=1.2)
        axes.plot((0, 1), (first.mean, second.mean), "k_", markersize=26, markeredgewidth=2.5)
        axes.set_xticks((0, 1), (_broken(dynamic), _broken(other)), fontsize=9)
        axes.set_xlim(-0.4, 1.4)
        figures.plain(axes)
    row[0, 0].set_ylabel("top-1 error, %")
    known = {label: handle for axes in row[0] for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(known.values(), known, loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(title)
    return figures.save(figure, file)


def plot_over(
    lines: Mapping[str, tuple[Sequence[float], Sequence[Sample]]], file: Path, title: str, xlabel: str
) -> list[Path]:
    """Plots errors over a number on a logarithmic scale: the mean of each line, and a dot for each seed.

    lines: {name: (x, errors)}.
    """
    figure, axes = figures.subplots(figsize=(6.4, 4), layout="constrained")
    ticks = sorted({value for x, _ in lines.values() for value in x})
    for number, (name, (x, errors)) in enumerate(lines.items()):
        color, shift = COLORS[number], 1 + 0.012 * (number - (len(lines) - 1) / 2)
        places = [value * shift for value in x]  # so that dots of different lines do not overlap
        for place, error in zip(places, errors):
            axes.plot(
                [place] * len(error.values), error.values, STYLES[number][0], color=color, markersize=4, alpha=0.5
            )
        axes.plot(places, [error.mean for error in errors], STYLES[number], color=color, label=name, markersize=7)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel="top-1 error, %", title=title)
    axes.legend(frameon=False)
    figures.plain(axes)
    return figures.save(figure, file)


def plot_tradeoff(points: Sequence[tuple[Arm, Quartiles, Sample]], file: Path, title: str, xlabel: str) -> list[Path]:
    """Plots errors over a network's cost; arms of one network are connected, and a bar is the spread over seeds.

    points: (arm, quartiles of the cost, errors); for an exact cost all three are equal.
    """
    from matplotlib.ticker import LogLocator

    figure, axes = figures.subplots(figsize=(8.5, 5), layout="constrained")
    networks = list(dict.fromkeys((arm.network, arm.coefficients) for arm, _, _ in points))
    families = list(dict.fromkeys(kind or model_info(network).family for network, kind in networks))
    for (network, kind), marker in zip(networks, cycle(MARKERS)):
        color = SEED_COLORS[families.index(kind or model_info(network).family) % len(SEED_COLORS)]
        own = sorted((p for p in points if (p[0].network, p[0].coefficients) == (network, kind)), key=lambda p: p[1][1])
        dynamic = own[0][0].is_dynamic
        x, means = [median for _, (_, median, _), _ in own], [error.mean for *_, error in own]
        reach = [[m - low for _, (low, m, _), _ in own], [high - m for _, (_, m, high), _ in own]]
        spreads = [error.spread or 0 for *_, error in own]
        name = model_info(network).title + (f", {kind} coefficients" if kind else "")
        face = color if dynamic else "white"
        style = marker + ("-" if dynamic else "--")
        axes.errorbar(x, means, spreads, reach, fmt=style, color=color, capsize=3, label=name, markersize=7,
                      linewidth=1.2, markerfacecolor=face)  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set(xlabel=xlabel, ylabel="top-1 error, %", title=title)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    axes.grid(alpha=0.25, which="both")
    figures.plain(axes)
    return figures.save(figure, file)


def plot_curves(runs: Mapping[Arm, Sequence[Sequence[dict]]], file: Path, title: str) -> list[Path]:
    """Plots test errors over steps, averaged over the seeds, in a panel for each family of networks.

    runs: {arm: for each seed its test rows, with 'step' and 'top1'}.
    """
    families: dict[str, list[Arm]] = {}
    for arm in runs:
        families.setdefault(model_info(arm.network).family, []).append(arm)
    figure, row = figures.subplots(
        1, len(families), figsize=(5 * len(families), 4.6), squeeze=False, layout="constrained"
    )
    for axes, arms in zip(row[0], families.values()):
        for arm, color, style in zip(arms, cycle(SEED_COLORS), cycle(STYLES)):
            by_step: dict[int, list[float]] = {}
            for test in (test for rows in runs[arm] for test in rows):
                by_step.setdefault(test["step"], []).append(100 * (1 - test["top1"]))
            steps, means = list(by_step), [sum(errors) / len(errors) for errors in by_step.values()]
            axes.plot(steps, means, style, color=color, label=arm.title, markersize=4.5, linewidth=1.2)
        axes.set(xlabel="step")
        axes.legend(frameon=False, fontsize=7)
        figures.plain(axes)
    row[0, 0].set_ylabel("top-1 error on the test set, %")
    figure.suptitle(title)
    return figures.save(figure, file)


def _broken(name: str) -> str:
    return name.replace(" (", "\n(").replace(", g_t", "\ng_t").replace(", ", "\n")
