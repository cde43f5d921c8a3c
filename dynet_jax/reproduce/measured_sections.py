"""The report's sections on measurements of trained networks, and on latency."""

import shutil
from pathlib import Path

from dynet_jax.analysis import coefficient_plots, latency_plots
from dynet_jax.analysis.coefficients import CoefficientSummary
from dynet_jax.analysis.correlation import Correlation
from dynet_jax.analysis.correlation_plots import plot_correlations
from dynet_jax.analysis.latency_report import disturbance, reduction_table, runtime_table
from dynet_jax.analysis.rank import Rank
from dynet_jax.analysis.table import Table
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.document import Figure, Section
from dynet_jax.reproduce.measured import busy_warning, correlations, latencies, latency_busy
from dynet_jax.reproduce.measurements import FOLDER, coefficient_arms, read_measurement
from dynet_jax.reproduce.plan import Plan
from dynet_jax.reproduce.statistics import Sample


def correlation_section(plan: Plan, folder: Path, stamp: str) -> Section | None:
    """Returns the section on Fig. 2 and 6, correlations of feature maps in the second-last stage."""
    figure6, figure2 = correlations(plan)
    if not figure6 and not figure2:
        return None
    blocks: list = [
        "Pearson correlation between the channels of the second-last stage's feature maps, over all positions of "
        f"{plan.budget.images} test images, or all if there are fewer; few samples make large correlations likely by "
        "chance. S, M, W, N are |r| from 0.5, from 0.3, from 0.1 and below (Cohen's limits, as the paper names none). "
        "Constant channels have no correlation."
    ]
    rows = [_correlation_row(arm, list(found.values())) for arm, found in (figure6 | figure2).items()]
    header = (
        "network",
        "seeds",
        "channels",
        "constant",
        "samples",
        "S %",
        "M %",
        "W %",
        "N %",
        "in [-0.1, 0.2] %",
        "mean |r|",
    )
    blocks.append(Table(header, rows))
    for name, group, caption in (
        ("figure6", figure6, "Fig. 6: Dy-MobileNetV2 beside MobileNetV2"),
        ("figure2", figure2, "Fig. 2: the other networks, dynamic and static"),
    ):
        first = {arm.title: next(iter(found.values())) for arm, found in group.items()}
        if any(summary.pairs for summary in first.values()):
            plot_correlations(first, folder / name, caption)
            blocks.append(Figure(folder / f"{name}.png", f"{caption}, of the first seed. {stamp}"))
    return Section("Fig. 2 and 6: correlation of feature maps", blocks)


def _correlation_row(arm: Arm, found: list[Correlation]) -> tuple:
    def shares(key: str) -> str:
        values = tuple(100 * getattr(c, key) for c in found if c.pairs)
        return Sample(values).text(1) if values else ""

    magnitudes = tuple(c.mean_magnitude for c in found if c.mean_magnitude is not None)
    constant = ", ".join(str(c.dead) for c in found)
    kinds = [shares(key) for key in ("strong", "middle", "weak", "none", "within")]
    mean = Sample(magnitudes).text(3) if magnitudes else ""
    return (arm.title, str(len(found)), str(found[0].channels), constant, str(found[0].positions), *kinds, mean)


def coefficient_section(plan: Plan, folder: Path, stamp: str) -> Section | None:
    """Returns the section on coefficients: distribution, dependence on the image, and nearest images."""
    arms = (arm for arm, _ in coefficient_arms(plan))
    found = {arm: values for arm in arms if (values := read_measurement(plan, f"coefficients/{arm.name}"))}
    if not found:
        return None
    blocks: list = [
        "Entropy is that of a channel's coefficients, normalised to sum 1, relative to the maximum; it is near 1, so "
        "the difference from 1 is shown. Between classes is the share of the variance between images that is between "
        "their classes (eta squared); the expectation for random labels is in brackets. Same class: how often the "
        "nearest other image in the space of all coefficients, each standardised, has the same class. All of this is "
        "for the first seed."
    ]
    rows, variation = [], {}
    for arm, values in found.items():
        layers = {name: CoefficientSummary.from_dict(v) for name, v in values["coefficients"].items()}
        variation[arm.title] = layers
        rows.append(_coefficient_row(arm, list(layers.values()), values))
    header = ("network", "images", "mean", "deviation", "of that between images", "1000 (1 - entropy)",
              "between classes", "same class", "chance")  # fmt: skip
    blocks.append(Table(header, rows))
    coefficient_plots.plot_variation(
        variation, folder / "variation", "Variation of coefficients between images, by depth"
    )
    blocks.append(Figure(folder / "variation.png", f"First seed. {stamp}"))
    for arm in found:
        file = folder / f"coefficients-{arm.name}"
        coefficient_plots.plot_coefficients(variation[arm.title], file, f"Coefficients of {arm.title}, by layer")
        blocks.append(Figure(Path(f"{file}.png"), f"{arm.title}, first seed. {stamp}"))
        blocks += [f"Layer by layer, {arm.title}:", _layers_table(variation[arm.title])]
        picture = plan.out / FOLDER / "coefficients" / f"{arm.name}-nearest.png"
        if picture.exists():
            shutil.copyfile(picture, folder / f"nearest-{arm.name}.png")
            words = (
                f"Nearest images in the space of coefficients: {arm.title}, first seed; with their distances. {stamp}"
            )
            blocks.append(Figure(folder / f"nearest-{arm.name}.png", words))
    return Section("Coefficients", blocks)


def _coefficient_row(arm: Arm, layers: list[CoefficientSummary], values: dict) -> tuple:
    def mean(key: str) -> float | None:
        numbers = [value for layer in layers if (value := getattr(layer, key)) is not None]
        return sum(numbers) / len(numbers) if numbers else None

    def text(value: float | None, digits: int = 3) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    between = f"{text(mean('between_classes'))} ({text(mean('between_random_classes'))})"
    numbers = [text(mean(key)) for key in ("mean", "deviation", "deviation_of_images")]
    entropy = mean("entropy")
    numbers.append("" if entropy is None else f"{1000 * (1 - entropy):.3f}")
    same = [f"{100 * values[key]:.1f} %" if values[key] is not None else "" for key in ("same_class", "chance")]
    return (arm.title, str(values["images"]), *numbers, between, *same)


def _layers_table(layers: dict[str, CoefficientSummary]) -> Table:
    header = (
        "layer",
        "g_t",
        "channels",
        "mean",
        "deviation",
        "between images",
        "1000 (1 - entropy)",
        "between classes",
    )
    rows = []
    for name, layer in layers.items():
        entropy = None if layer.entropy is None else f"{1000 * (1 - layer.entropy):.3f}"
        share = None if layer.between_classes is None else f"{layer.between_classes:.3f}"
        numbers = [f"{value:.4f}" for value in (layer.mean, layer.deviation, layer.deviation_of_images)]
        rows.append((name, str(layer.group_size), str(layer.channels), *numbers, entropy, share))
    return Table(header, rows)


def rank_section(plan: Plan, folder: Path, stamp: str) -> Section | None:
    """Returns the section on effective ranks of fused kernels and of the fixed twin's kernels."""
    pairs = [
        {a.title: _ranks(values) for a in pair if (values := read_measurement(plan, f"coefficients/{a.name}"))}
        for pair in coefficient_arms(plan)
    ]
    pairs = [pair for pair in pairs if pair]
    if not pairs:
        return None
    rows = []
    for title, layers in (item for pair in pairs for item in pair.items()):
        full = [rank for rank in layers.values() if rank.largest > 1]
        over = [rank.over_images for rank in layers.values() if rank.over_images is not None]
        relative = sum(rank.relative for rank in full) / len(full) if full else None
        rows.append((title, len(full), relative, sum(over) / len(over) if over else None))
    header = ("network", "layers", "effective rank, relative", "of one channel's kernels over images")
    words = (
        "The exponential of the entropy of the singular values (Roy and Vetterli, 2007): of the kernel of one image as "
        "a matrix from inputs to outputs, relative to the maximum and averaged over layers; and of the kernels that "
        "one channel has for different images, which is between 1 and g_t."
    )
    blocks: list = [words, Table(header, rows)]
    for number, pair in enumerate(pairs):
        names = " and ".join(pair)
        coefficient_plots.plot_ranks(pair, folder / f"ranks{number}", f"Effective rank by layer: {names}")
        blocks.append(Figure(folder / f"ranks{number}.png", f"{names}, first seed. {stamp}"))
    return Section("Effective rank of kernels", blocks)


def _ranks(values: dict) -> dict[str, Rank]:
    return {layer: Rank.from_dict(rank) for layer, rank in values["ranks"].items()}


def latency_section(plan: Plan, folder: Path) -> Section | None:
    """Returns the section on Table 2 and Fig. 7: networks of the paper's size with random weights."""
    measured = latencies(plan)
    if not measured:
        return None
    runs = plan.budget.latency_runs
    words = (
        "One image, full-size networks with random weights, both in the same runtime in float32; medians and quartiles "
        f"of {runs} runs in alternation. `dynet benchmark` compares all runtimes."
    )
    table = runtime_table(measured, 224, 1, measured[0].cell.threads)
    title = "Latency saved: 100 % - L_dynamic / L_base, one image"
    latency_plots.plot_reductions(measured, folder / "figure7", title, fastest=False)
    what = (
        f"Fig. 7: the share of latency saved, by size of the image; medians of {runs} runs, budget {plan.budget_name}"
    )
    found = read_measurement(plan, "latency_machine") or {}
    figure = Figure(folder / "figure7.png", f"{what}; {found.get('machine', 'machine not known')}.")
    blocks = [words, *busy_warning(latency_busy(plan)), *disturbance(measured), table]
    blocks += [reduction_table(measured, None), figure]
    return Section("Table 2 and Fig. 7: latency", blocks)
