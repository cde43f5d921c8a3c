"""Figures."""

from pathlib import Path

from dynet_jax.train.metrics import read_metrics

COLORS = {"train": "#0072B2", "test": "#D55E00"}  # told apart by colour-blind readers and in grey


def plot_training_curves(metrics_file: Path, image_file: Path, title: str) -> None:
    """Loss, accuracy and learning rate over steps, from a run's metrics.jsonl, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {kind: read_metrics(metrics_file, kind) for kind in COLORS}
    figure, (loss, accuracy, rate) = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for kind, style in (("train", "-"), ("test", "o-")):
        steps = [row["step"] for row in rows[kind]]
        options = {"color": COLORS[kind], "label": kind, "markersize": 3.5, "linewidth": 1.4}
        loss.plot(steps, [row["loss"] for row in rows[kind]], style, **options)
        accuracy.plot(steps, [100 * row["top1"] for row in rows[kind]], style, **options)
    rate.plot(
        [row["step"] for row in rows["train"]], [row["learning_rate"] for row in rows["train"]], color=COLORS["train"]
    )
    loss.set(title="loss (training: with label smoothing)", xlabel="step", ylabel="cross entropy")
    accuracy.set(title="top-1 accuracy", xlabel="step", ylabel="%")
    if rows["test"]:
        last = rows["test"][-1]
        accuracy.annotate(
            f"{100 * last['top1']:.2f} %",
            (last["step"], 100 * last["top1"]),
            xytext=(-4, -14),
            textcoords="offset points",
            ha="right",
            color=COLORS["test"],
        )
    rate.set(title="learning rate", xlabel="step")
    for axes in (loss, accuracy):
        axes.legend(frameon=False)
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(image_file, dpi=120)
    pyplot.close(figure)
