"""The report, section by section."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynet_jax.analysis.table import Table
from dynet_jax.models.registry import model_info
from dynet_jax.reproduce import figures
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.claims import RULE, claims, difference
from dynet_jax.reproduce.document import Figure, Section
from dynet_jax.reproduce.experiments import OWN, OWN_TITLE, TITLES
from dynet_jax.reproduce.measured import arm_latencies, busy_warning, how_arm_latencies
from dynet_jax.reproduce.paper import paper_error
from dynet_jax.reproduce.results import Results

BARS = "Filled marks are dynamic networks; arms of one network are connected. Vertical bars are the spread over seeds."
WORDS = {
    "table1": ["The paper's networks and the networks that they are derived from."],
    "table4": ["The same widths with dynamic and with static kernels; MACs differ only by fusion and predictors."],
    "table5": [
        "Coefficients of CondConv (one sigmoid per kernel of a layer, from the layer's own input) and of DY-CNN "
        "(softmax over the kernels, temperature 30) replace the paper's (one per kernel and channel, from the block's "
        "input) in the same network with six kernels."
    ],
    "table6": [],
    "figure5": ["The base network with its own widths and expansion, and dynamic convolutions in its blocks."],
}


def claims_section(results: Results) -> Section:
    """Returns the section with every claim and its verdict."""
    rows = [(c.source, c.statement, c.paper, c.here, f"**{c.verdict}**") for c in claims(results)]
    header = ("in the paper", "claim", "the paper's numbers, on ImageNet", "here", "verdict")
    return Section("The paper's claims", [RULE, *([Table(header, rows)] if rows else [])])


def experiment_sections(results: Results, folder: Path, stamp: str) -> Iterator[Section]:
    """Yields a section for each experiment that has finished runs.

    folder: that of the figures. stamp: dataset, budget and seeds, for captions.
    """
    for key, experiment in results.plan.experiments.items():
        arms = [arm for arm in experiment.arms if results.seeds(arm)]
        if not arms:
            continue
        tables = [_errors_table(results, key, arms), *_difference_table(results, key)]
        yield Section(_title(key), [*WORDS.get(key, []), *tables, *_figure(results, key, folder, stamp)])


def _title(key: str) -> str:
    return OWN_TITLE if key == OWN else TITLES[key]


def _errors_table(results: Results, key: str, arms: Sequence[Arm]) -> Table:
    seeds = results.plan.seeds
    header = ("network", *(f"seed {seed}" for seed in seeds), "top-1 error %", "test loss", "MACs, 1e6")
    papers = [paper_error(key, arm) for arm in arms]
    rows = []
    for arm in arms:
        own = dict(zip(results.seeds(arm), results.errors(arm).values))
        numbers = [f"{own[seed]:.2f}" if seed in own else "" for seed in seeds]
        macs = f"{results.macs(arm) / 1e6:.2f}"
        loss = results.test_losses(arm).text(3)
        rows.append((arm.title, *numbers, results.errors(arm).text(), loss, macs))
    if not any(papers):
        return Table(header, rows)
    in_paper = "the paper's %, ImageNet, full width"
    return Table((*header, in_paper), [(*row, paper) for row, paper in zip(rows, papers)])


def _difference_table(results: Results, key: str) -> list[str | Table]:
    rows = []
    for first, second in results.plan.experiments[key].pairs:
        found = difference(results, first, second)
        if found is not None:
            half = f"± {found.half_width:.2f}" if math.isfinite(found.half_width) else "one seed"
            rows.append((f"{first.title} - {second.title}", found.text(signed=True), half, len(found.values)))
    header = ("difference of errors, paired by seed", "points", "95 % interval of the mean", "seeds")
    return [Table(header, rows)] if rows else []


def _figure(results: Results, key: str, folder: Path, stamp: str) -> list[Figure]:
    file, experiment = folder / key, results.plan.experiments[key]
    title = _title(key)
    if key in ("table5", "figure5"):
        lines = _lines(results, key)
        if not lines:
            return []
        xlabel = "g_t, kernels behind each dynamic kernel" if key == "table5" else "width"
        figures.plot_over(lines, file, title, xlabel)
        caption = f"{title}. Small marks are seeds, large ones their means. {stamp}"
    else:
        pairs = [(first, second) for first, second in experiment.pairs if results.seeds(first, second)]
        if not pairs:
            return []
        errors = [(results.errors(a, beside=[b]), results.errors(b, beside=[a])) for a, b in pairs]
        told = [(a.title, b.title, results.seeds(a, b), *e) for (a, b), e in zip(pairs, errors)]
        figures.plot_pairs(told, file, title)
        words = "each line is a seed, a bar is the mean; lines that rise mean that the left network is better."
        caption = f"{title}: {words} {stamp}"
    return [Figure(file.with_suffix(".png"), caption)]


def _lines(results: Results, key: str):
    arms = [arm for arm in results.plan.experiments[key].arms if results.seeds(arm)]
    lines: dict[str, tuple[list, list]] = {}
    for arm in arms:
        name = model_info(arm.network).title + (f", {arm.coefficients} coefficients" if arm.coefficients else "")
        x, errors = lines.setdefault(name, ([], []))
        x.append(arm.group_size if key == "table5" else arm.width)
        errors.append(results.errors(arm))
    return lines


def tradeoff_section(results: Results, folder: Path, stamp: str) -> Section | None:
    """Returns the section on errors against cost, in multiply-adds and in milliseconds."""
    arms = [arm for arm in results.plan.arms if results.seeds(arm)]
    if not arms:
        return None
    points = [(arm, (results.macs(arm) / 1e6,) * 3, results.errors(arm)) for arm in arms]
    xlabel = "multiply-adds of one image, 1e6"
    figures.plot_tradeoff(points, folder / "error_macs", "Error against multiply-adds", xlabel)
    blocks: list = [Figure(folder / "error_macs.png", f"{BARS} {stamp}")]
    latencies, (runtime, busy) = arm_latencies(results.plan), how_arm_latencies(results.plan)
    timed = [(arm, latencies[arm], results.errors(arm)) for arm in arms if arm in latencies]
    if timed:
        size = results.plan.common.data.image_size
        xlabel = f"milliseconds for one image of {size} px on this machine"
        figures.plot_tradeoff(timed, folder / "error_latency", "Error against measured latency", xlabel)
        words = f"{BARS} Horizontal bars are quartiles of 15 rounds in which all networks alternate, by {runtime}."
        blocks += [Figure(folder / "error_latency.png", f"{words} {stamp}"), *busy_warning(busy)]
    header = ("network", "top-1 error %", "MACs, 1e6", "ms, median", "quartiles")
    by_macs = sorted(points, key=lambda point: point[1])
    rows = [(a.title, e.text(), f"{macs[1]:.2f}", *_times(latencies.get(a))) for a, macs, e in by_macs]
    return Section("Accuracy and cost", [*blocks, Table(header, rows)])


def _times(quartiles: tuple[float, float, float] | None) -> tuple[str, str]:
    if quartiles is None:
        return "", ""
    low, median, high = quartiles
    return f"{median:.3f}", f"{low:.3f} to {high:.3f}"


def training_section(results: Results, folder: Path, stamp: str, arrangement: str) -> Section | None:
    """Returns the section on training: speed, and test errors during training."""
    plan = results.plan
    arms = [arm for arm in plan.arms if results.seeds(arm)]
    if not arms:
        return None
    runs = {arm: [results.test_rows(plan.job(arm, seed)) for seed in results.seeds(arm)] for arm in arms}
    figures.plot_curves(runs, folder / "curves", "Test error while training, mean of the seeds")
    batch, rows = plan.common.batch_size, []
    for arm in arms:
        low, rate, high = results.images_per_second(arm)
        step, *quartiles = (f"{1000 * batch / value:.1f}" for value in (rate, high, low))
        rows.append((arm.title, round(rate), step, " to ".join(quartiles), results.test_losses(arm).text(3)))
    words = (
        f"Quartiles over the reports of all runs; {arrangement}. They include the load of other programs. A step is "
        f"{batch} images: forward, backward and update."
    )
    header = ("network", "images/s, median", "ms per step, median", "quartiles", "test loss at the end")
    blocks = [words, Table(header, rows), *_speed_ratios(results), Figure(folder / "curves.png", stamp)]
    return Section("Training speed and curves", blocks)


def _speed_ratios(results: Results) -> list[Table]:
    """Returns tables of the training step of dynamic networks relative to others."""
    rows, pairs = [], [pair for key in ("table1", "table4") for pair in _pairs_of(results, key)]
    for first, second in pairs:
        if results.seeds(first) and results.seeds(second):
            rates = results.images_per_second(first), results.images_per_second(second)
            rows.append((f"{first.title} / {second.title}", rates[1][1] / rates[0][1]))
    return [Table(("time of a training step", "ratio"), rows)] if rows else []


def _pairs_of(results: Results, key: str) -> tuple[tuple[Arm, Arm], ...]:
    experiment = results.plan.experiments.get(key)
    return experiment.pairs if experiment else ()
