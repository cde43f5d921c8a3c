"""Fig. 7 and Table 2 as figures, readable in print and by colour-blind people."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from dynet_jax.analysis import figures
from dynet_jax.analysis.figures import COLORS, HATCHES, STYLES
from dynet_jax.analysis.latency import Measurement
from dynet_jax.analysis.latency_compare import (
    PAPER,
    compare,
    figure7_rows,
    is_of_paper,
    label,
    on_threads,
    reductions,
    select,
    values,
)


def plot_reductions(measurements: Sequence[Measurement], file: Path, title: str, *, fastest: bool = True) -> list[Path]:
    """Plots Fig. 7: 100 % - L_dynamic / L_base over the image size. Returns the files, as `figures.save` does.

    There is a column for each number of threads. The upper panels show the fastest of both networks, the bottom ones
    both in the first measured runtime, as in the paper. Without `fastest` there are only the bottom panels.
    """
    threads = values(measurements, "threads")
    rows = figure7_rows(measurements)
    rows = rows[: 1 + next((i for i, (_, _, runtime) in enumerate(rows) if runtime), len(rows))]
    rows = rows if fastest else rows[-1:]
    figure, grid = figures.subplots(
        len(rows), len(threads), figsize=(5 * len(threads), 3.6 * len(rows)), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for row, (name, of_these, runtime) in zip(grid, rows):
        for axes, count in zip(row, threads):
            lines = reductions(of_these, count, runtime).items()
            for (network, points), color, style in zip(lines, cycle(COLORS), cycle(STYLES)):
                shares = [100 * share for share in points.values()]
                axes.plot(list(points), shares, style, color=color, label=network, markersize=5, linewidth=1.6)
            axes.axhline(0, color="black", linewidth=0.8)
            axes.set_title(f"{name}, {on_threads(count)}", fontsize=10)
            axes.set_xticks(sorted(values(measurements, "image_size")))
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("image size, px")
    for axes in grid[:, 0]:
        axes.set_ylabel("latency saved, %")
    lowest = min(axes.get_ylim()[0] for axes in grid.flat)
    grid[0, 0].set_ylim(bottom=max(lowest, -100))  # larger losses are in the tables; here they would flatten the rest
    if grid[0, 0].lines[1:]:  # more than the line at 0
        grid[0, 0].legend(frameon=False)
    figure.suptitle(title)
    return figures.save(figure, file)


def plot_table2(measurements: Sequence[Measurement], image_file: Path, title: str) -> None:
    """Plots Table 2 as a PNG: the speed of each runtime relative to the fastest base network in like numbers.

    measurements: of one size, at batch 1. There is a group of bars per network and a panel per number of threads.
    """
    threads, pairs = values(measurements, "threads"), values(measurements, "pair")
    labels = list(dict.fromkeys(label(m.cell) for m in select(measurements, is_dynamic=True)))
    width = max(5.5, 1 + 0.28 * len(labels) * len(pairs))
    figure, row = figures.subplots(
        1, len(threads), figsize=(width * len(threads), 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, count in zip(row[0], threads):
        here = select(measurements, threads=count)
        _bars(axes, here, pairs, labels)
        bases = {m.cell.pair: m.cell.network for m in select(here, is_dynamic=False)}
        axes.set_xticks(range(len(pairs)), [f"{pair}\nto {bases.get(pair, 'no base')}" for pair in pairs], fontsize=8)
        axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
        axes.set_title(on_threads(count), fontsize=10)
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    row[0, 0].set_ylabel("times as fast as the fastest base\n(float32: as that in float32)")
    figure.legend(
        *row[0, 0].get_legend_handles_labels(),
        frameon=False,
        loc="outside lower center",
        ncols=max(2, int(width * len(threads) / 2)),
    )
    figure.suptitle(title)
    figure.savefig(image_file, dpi=120)


def _bars(axes, measurements: Sequence[Measurement], pairs: Sequence[str], labels: Sequence[str]) -> None:
    thickness = 0.8 / max(1, len(labels))
    for number, (name, color, hatch) in enumerate(zip(labels, cycle(COLORS), cycle(HATCHES))):
        found = [m for m in select(measurements, is_dynamic=True) if label(m.cell) == name]
        heights = {m.cell.pair: compare(measurements, m.cell).like_for_like or 0 for m in found}
        places = [index - 0.4 + (number + 0.5) * thickness for index in range(len(pairs))]
        bars = axes.bar(
            places, [heights.get(pair, 0) for pair in pairs], thickness, color=color, hatch=hatch, label=name,
            edgecolor="white", linewidth=0.5,
        )  # fmt: skip
        axes.bar_label(bars, [f"{heights[pair]:.2f}" if heights.get(pair) else "" for pair in pairs], fontsize=6)
    published = {i: PAPER[pair] for i, pair in enumerate(pairs) if pair in PAPER and is_of_paper(measurements[0].cell)}
    if published:
        starts, ends = ([index + side for index in published] for side in (-0.45, 0.45))
        ratios = [base / dynamic for dynamic, base in published.values()]
        axes.hlines(ratios, starts, ends, color="black", linewidth=2, label="the paper's, in Caffe")
