"""Analyses a trained network: its cost by layer, its mistakes by class, its feature maps, coefficients and ranks.

    python examples/analyse_checkpoint.py WORKDIR [--images=1000]

WORKDIR is one of train.py, as `make train` leaves runs/digits. Figures and tables go into WORKDIR/analysis.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax.analysis import count_macs
from dynet_jax.analysis.coefficient_plots import plot_coefficients, plot_ranks, plot_variation
from dynet_jax.analysis.coefficients import gather_coefficients, summarize_coefficients
from dynet_jax.analysis.correlation import correlate_trained
from dynet_jax.analysis.correlation_plots import plot_correlations
from dynet_jax.analysis.plots import plot_confusion
from dynet_jax.analysis.rank import list_convolutions, ranks
from dynet_jax.analysis.table import Table
from dynet_jax.analysis.trained import Trained, open_trained
from dynet_jax.arguments import Parser, path_argument, report_mistakes
from dynet_jax.errors import UserError

ROWS = 10  # of a table that is printed
DRAWN_CLASSES = 50  # a matrix of more would be meters wide


def show_cost(trained: Trained, out: Path) -> None:
    """Prints the multiply-adds of the costliest layers, and writes those of all layers."""
    count = count_macs(trained.model, trained.image_shape)
    header = ("layer", "kind", "convolution", "fusion", "predictor", "total", "parameters")
    rows = [(r.name, r.kind, r.convolution, r.fusion, r.predictor, r.total, r.parameters) for r in count.rows]
    (out / "layers.csv").write_text(Table(header, rows).csv() + "\n")
    costliest = sorted(rows, key=lambda row: -row[header.index("total")])[:ROWS]
    print(f"{count.total:,} multiply-adds, {count.parameters:,} parameters; the costliest of {len(rows)} layers:")
    print(Table(header, costliest).markdown())


def confusion_of(trained: Trained) -> np.ndarray:
    """Returns [label, prediction] -> number of images."""
    classes = len(trained.images.class_names)

    @jax.jit
    def predict(variables, images):
        return jnp.argmax(trained.model.apply(variables, images, train=False)[:, :classes], axis=-1)

    confusion = np.zeros((classes, classes), int)
    for batch in trained.batches():
        counts = batch["mask"] > 0
        predictions = np.asarray(predict(trained.variables, batch["image"]))
        np.add.at(confusion, (batch["label"][counts], predictions[counts]), 1)
    return confusion


def show_mistakes(trained: Trained, out: Path) -> None:
    """Prints top-1 by class, the worst classes first, and the two classes that are confused most often."""
    confusion, names = confusion_of(trained), trained.images.class_names
    images = confusion.sum(axis=1)
    rows = [(n, int(t), 100 * float(c) / t) for n, t, c in zip(names, images, np.diag(confusion)) if t]
    top1 = f"top-1 {100 * np.trace(confusion) / max(1, images.sum()):.2f} % of {images.sum()} images"
    print(f"{top1}; the worst of {len(rows)} classes:")
    print(Table(("class", "images", "top-1 %"), sorted(rows, key=lambda row: row[2])[:ROWS]).markdown())
    mistakes = confusion - np.diag(np.diag(confusion))
    label, taken_for = np.unravel_index(mistakes.argmax(), mistakes.shape)
    if mistakes.any():
        times = mistakes[label, taken_for]
        print(
            f"confused most often: {names[label]} is taken for {names[taken_for]} in {times} of {images[label]} images"
        )
    if len(names) <= DRAWN_CLASSES:
        plot_confusion(confusion, names, out / "confusion.png", top1)


def show_correlation(trained: Trained, out: Path) -> None:
    """Plots correlations between the feature maps of the second-last stage, as in the paper's Fig. 6."""
    for layer, found in correlate_trained(trained).items():
        if not found.pairs:
            print(f"the channels of {layer} are the same everywhere: they have no correlation")
            continue
        shares = ", ".join(
            f"{kind} {100 * getattr(found, kind):.0f} %" for kind in ("strong", "middle", "weak", "none")
        )
        print(f"correlation of {found.channels} channels of {layer}: mean |r| {found.mean_magnitude:.3f} ({shares})")
        plot_correlations({layer: found}, out / "correlation", f"correlation between the feature maps of {layer}")


def show_coefficients(trained: Trained, out: Path) -> None:
    """Shows how much coefficients depend on the image and its class, and the effect on the kernels."""
    convolutions = list_convolutions(trained.model, trained.variables, trained.image_shape)
    name, coefficients = trained.name, None
    if any(convolution.is_dynamic for convolution in convolutions):
        coefficients = gather_coefficients(trained.model, trained.variables, trained.batches())
        summaries = summarize_coefficients(coefficients)
        most = sorted(summaries.items(), key=lambda item: -item[1].deviation_of_images)[:ROWS]
        header = ("layer", "mean", "deviation between images", "of the variance between classes %")
        rows = [(k, s.mean, f"{s.deviation_of_images:.4f}", _percent(s.between_classes)) for k, s in most]
        print(f"coefficients of the {len(rows)} of {len(summaries)} dynamic layers that depend most on the image:")
        print(Table(header, rows).markdown())
        chance = _percent(most[0][1].between_random_classes)
        if chance is not None:
            print(f"(if labels were random, {chance:.2f} % would be between classes)")
        plot_coefficients(summaries, out / "coefficients", f"coefficients of {name}")
        plot_variation({name: summaries}, out / "variation", f"coefficients of {name} between images and classes")
    else:
        print(f"{name} is static: it has no coefficients")
    found = ranks(convolutions, coefficients)
    whole = [rank.relative for rank in found.values() if rank.largest > 1]
    print(f"effective rank of a kernel, mean over layers: {100 * np.mean(whole):.0f} % of the largest possible")
    dynamic = [rank for rank in found.values() if rank.is_dynamic]
    if dynamic:
        over = [rank.over_images for rank in dynamic]
        print(f"of a channel's kernels over the images: {np.mean(over):.2f} of at most {dynamic[0].group_size}")
    plot_ranks({name: found}, out / "ranks", f"effective ranks of {name}")


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def main() -> None:
    parser = Parser(prog="analyse_checkpoint.py", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=path_argument, metavar="WORKDIR")
    parser.add_argument("--images", type=int, default=1000, help="at most, spread evenly over the test set")
    options = parser.parse_args()
    trained = open_trained(options.workdir, images=options.images)
    config, out = trained.config, options.workdir / "analysis"
    if config.task != "classification":
        raise UserError(f"{options.workdir} holds a network for {config.task}; this example is about classifiers")
    out.mkdir(exist_ok=True)
    print(f"{config.model.name} at step {trained.step}, on {len(trained.images)} test images of {trained.dataset}")
    for show in (show_cost, show_mistakes, show_correlation, show_coefficients):
        show(trained, out)
    print(f"in {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


if __name__ == "__main__":
    sys.exit(report_mistakes("analyse_checkpoint.py", main))
