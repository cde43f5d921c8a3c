"""Figures of training, evaluation and comparisons."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynet_jax.analysis import figures
from dynet_jax.tasks.task import Task

COLORS = {"train": "#0072B2", "test": "#D55E00"}  # distinct for colour-blind readers and in grey


def plot_training_curves(rows: dict[str, list[dict]], task: Task, image_file: Path, title: str) -> None:
    """Plots loss, the task's score, learning rate and the movement of coefficients over steps, as a PNG.

    rows: {'train': [...], 'test': [...]}, each row with 'step', 'loss', the score and, in training, 'learning_rate'
      and, for a dynamic network, 'coefficients/STAGE/deviation' and so on (see `dynet_jax.train.movement`).
    """
    stages = {name.split("/")[1] for row in rows["train"] for name in row if name.startswith("coefficients/")}
    stages = sorted(stages, key=lambda stage: (len(stage), stage))  # stage10 after stage2
    panels = 4 if stages else 3
    figure, all_axes = figures.subplots(1, panels, figsize=(4.35 * panels, 3.8), layout="constrained")
    loss, accuracy, rate = all_axes[:3]
    if stages:
        _plot_movement(all_axes[3], rows["train"], stages)
    for kind, style in (("train", "-"), ("test", "o-")):
        steps = [row["step"] for row in rows[kind]]
        options = {"color": COLORS[kind], "label": kind, "markersize": 3.5, "linewidth": 1.4}
        style = _visible(style, steps)
        loss.plot(steps, [row["loss"] for row in rows[kind]], style, **options)
        key = task.train_score if kind == "train" else task.score
        accuracy.plot(steps, [100 * row[key] for row in rows[kind]], style, **options)
    steps, rates = ([row[key] for row in rows["train"]] for key in ("step", "learning_rate"))
    rate.plot(steps, rates, _visible("-", steps), color=COLORS["train"], markersize=3.5)
    final = f" (test: {100 * rows['test'][-1][task.score]:.2f} %)" if rows["test"] else ""
    loss.set(title=task.loss_title, xlabel="step", ylabel="cross entropy", ylim=(0, None))
    accuracy.set(title=f"{task.score_title}{final}", xlabel="step", ylabel="%", ylim=(0, 100))
    if rows["train"]:  # an early test loss, before the running statistics have settled, would flatten the rest
        loss.set_ylim(0, 1.2 * max(row["loss"] for row in rows["train"]))
    rate.set(title="learning rate", xlabel="step")
    loss.legend(frameon=False, loc="upper right")
    accuracy.legend(frameon=False, loc="lower right")
    for axes in all_axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(image_file, dpi=120)


def _visible(style: str, points: Sequence) -> str:
    """The style of a line. A single point has no line, and is drawn as a point."""
    return style if len(points) > 1 else "o"


def _plot_movement(axes, rows: list[dict], stages: list[str]) -> None:
    """Plots the deviation of coefficients between images and, dotted, from one half; stages from light to dark."""
    shades = figures.colors("Greens", np.linspace(0.4, 1.0, len(stages)))
    for stage, color in zip(stages, shades):
        for key, style in (("deviation", "-"), ("from_half", ":")):
            name = f"coefficients/{stage}/{key}"
            found = [(row["step"], row[name]) for row in rows if name in row]
            label = stage if key == "deviation" else None
            axes.plot(*zip(*found), _visible(style, found), color=color, label=label, linewidth=1.4, markersize=3.5)
    axes.set(title="coefficients: deviation between images\n(dotted: distance from one half)", xlabel="step")
    axes.set_ylim(0, None)
    axes.legend(frameon=False, fontsize=8, ncols=1 + len(stages) // 5)


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], image_file: Path, title: str) -> None:
    """Plots a confusion matrix (rows: labels) in percent of each row, as a PNG."""
    shares = 100 * confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    side = 2.2 + 0.42 * len(class_names)
    figure, axes = figures.subplots(figsize=(side + 0.8, side), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in zip(*np.nonzero(shares >= 0.5)):
        color = "white" if shares[row, column] > 55 else "black"
        axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(class_names)), class_names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(class_names)), class_names)
    axes.set(title=title, xlabel="prediction (% of the row)", ylabel="label")
    with image_file.open("wb") as file:  # it may be in a bucket
        figure.savefig(file, dpi=120)


def plot_comparison(rows: dict[str, dict[int, list[dict]]], image_file: Path, title: str) -> None:
    """Plots test errors over steps as a PNG: a thin line per seed, a thick one for the mean of each network.

    rows: {network: {seed: test rows by step, each with 'step' and 'top1'}}.
    """
    figure, axes = figures.subplots(figsize=(7, 4.2), layout="constrained")
    styles = zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7"), ("o-", "s--", "^-.", "d:"))
    for (network, seeds), (color, style) in zip(rows.items(), styles):
        steps = [row["step"] for row in next(iter(seeds.values()))]
        errors = [[100 * (1 - row["top1"]) for row in run] for run in seeds.values()]
        for run in errors:
            axes.plot(steps, run, color=color, linewidth=0.7, alpha=0.5)
        mean = [sum(values) / len(values) for values in zip(*errors)]
        axes.plot(steps, mean, style, color=color, linewidth=1.8, markersize=4, label=f"{network}: {mean[-1]:.2f} %")
    axes.set(title=title, xlabel="step", ylabel="%")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(image_file, dpi=120)
