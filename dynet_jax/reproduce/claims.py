"""The paper's claims, each with the findings of this plan's runs."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from dynet_jax.analysis.latency_compare import PAPER, best, select, values
from dynet_jax.models.registry import model_info
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.measured import BUSY, correlations, latencies, latency_busy
from dynet_jax.reproduce.paper import paper_difference, paper_error
from dynet_jax.reproduce.results import Results
from dynet_jax.reproduce.statistics import Sample, Verdict, conjunction, paired, slopes, verdict

# Table 1: a dynamic network counts as equal to its base if its error is at most this many points higher; the largest
# difference in the paper is 0.60.
TOLERANCE = 1.0
RULE = (
    "Differences are paired by seed; ± is the 95 % interval of their mean (Student's t over the seeds). A claim is "
    "**seen** if the whole interval is on its side, **not seen** if the whole interval is on the other side, and **not "
    "decided** if it contains both; the standard deviation is taken as at least one test image. Table 1 has two "
    f"conditions, an error at most {TOLERANCE:g} point higher and fewer MACs, and so does the last row of Fig. 5: seen "
    "if both hold, not seen if one does not. Table 2 compares quartiles of runs on this machine. The seeds share one "
    "test set, whose own chance is not in the intervals, and among so many verdicts some may be accidental. All of "
    "them apply to this dataset, budget and size of networks, which are not the paper's: networks that have not been "
    "trained to the end (see the curves) say little about networks that have."
    "end (see the curves) say little about networks that have."
)


class Claim(NamedTuple):
    """One row of the report's first table.

    Attributes:
      source: the table or figure. statement: the paper's claim. paper: its numbers. here: the finding.
    """

    source: str
    statement: str
    paper: str
    here: str
    verdict: Verdict


def claims(results: Results) -> list[Claim]:
    """Returns the claims for which there are finished runs and measurements."""
    return [*_bases(results), *_fixed(results), *_group_sizes(results), *_widths(results), *_correlations(results),
            *_latency(results)]  # fmt: skip


def difference(results: Results, first: Arm, second: Arm) -> Sample | None:
    """Returns the difference of errors in points, seed by seed; None if both have finished no common seed."""
    if not results.seeds(first, second):
        return None
    return paired(results.errors(first, beside=[second]), results.errors(second, beside=[first]))


def _bases(results: Results) -> Iterator[Claim]:
    for dynamic, base, found in _pairs(results, "table1"):
        saved = 1 - results.macs(dynamic) / results.macs(base)
        statement = f"{dynamic.title} has the error of {base.title} (at most {TOLERANCE:g} point more) with fewer MACs"
        here = f"{found.interval} points with {100 * abs(saved):.0f} % {'fewer' if saved > 0 else 'more'} MACs"
        decided = verdict(found, below=TOLERANCE) if saved > 0 else "not seen"
        yield Claim("Table 1", statement, _paper("table1", dynamic, base), here, decided)


def _fixed(results: Results) -> Iterator[Claim]:
    for dynamic, fixed, found in _pairs(results, "table4"):
        statement = f"{dynamic.title} has a lower error than {fixed.title}, at equal MACs of the convolutions"
        here = f"{found.interval} points at {_times(results, dynamic, fixed)} the MACs, fusion and predictors included"
        yield Claim("Table 4", statement, _paper("table4", dynamic, fixed), here, verdict(found))


def _group_sizes(results: Results) -> Iterator[Claim]:
    table5 = results.plan.experiments.get("table5")
    arms = [arm for arm in table5.arms if arm.coefficients is None] if table5 else []
    if arms and results.seeds(*arms):
        errors = [results.errors(arm, beside=arms) for arm in arms]
        found = slopes([math.log2(arm.group_size) for arm in arms if arm.group_size], errors)
        means = ", ".join(f"{sample.mean:.2f}" for sample in errors)
        statement = "The error of Dy-mobile falls as g_t rises over 1, 2, 4, 6, on average"
        here = f"{means} %; {found.interval} points for each doubling"
        paper = ", ".join(f"{paper_error('table5', arm):.2f}" for arm in arms)
        yield Claim("Table 5", statement, f"{paper} %", here, verdict(found))
    for dynamic, attention, found in _pairs(results, "table6"):
        statement = f"{dynamic.title} has a lower error than with g_t = 1 (channel attention)"
        here = f"{found.interval} points"
        yield Claim("Table 6", statement, _paper("table6", dynamic, attention), here, verdict(found))


def _widths(results: Results) -> Iterator[Claim]:
    pairs = list(_pairs(results, "figure5"))
    for dynamic, base, found in pairs:
        statement = f"{dynamic.title} has a lower error than {base.title}"
        here = f"{found.interval} points at {_times(results, dynamic, base)} the MACs"
        yield Claim("Fig. 5", statement, "lower at every width (no values)", here, verdict(found))
    arms = [arm for dynamic, base, _ in pairs for arm in (dynamic, base)]
    if len(pairs) > 1 and results.seeds(*arms):
        errors = {arm: results.errors(arm, beside=arms) for arm in arms}
        advantages = [paired(errors[base], errors[dynamic]) for dynamic, base, _ in pairs]
        found = slopes([math.log2(dynamic.width) for dynamic, _, _ in pairs], advantages)
        here = f"advantage {', '.join(f'{sample.mean:+.2f}' for sample in advantages)} points from narrow to wide; "
        here += f"{found.interval} for each doubling of the width"
        decided = conjunction(verdict(advantages[0].negative), verdict(found))
        statement = "There is an advantage at the smallest width, and it shrinks as the width grows"
        yield Claim("Fig. 5", statement, "it does (no values)", here, decided)


def _correlations(results: Results) -> Iterator[Claim]:
    figure6, _ = correlations(results.plan)
    if len(figure6) < 2:
        return
    (dynamic, of_dynamic), (base, of_base) = figure6.items()
    seeds = sorted(of_dynamic.keys() & of_base.keys())
    found = [(of_dynamic[seed], of_base[seed]) for seed in seeds if of_dynamic[seed].pairs and of_base[seed].pairs]
    if not found:
        return
    names = f"{dynamic.title} than of {base.title}"
    inside = [Sample(tuple(100 * c.within for c in column)) for column in zip(*found)]
    statement = f"More correlations of feature maps lie in [-0.1, 0.2] in the second-last stage of {names}"
    here = f"{inside[0].mean:.1f} % against {inside[1].mean:.1f} %: {paired(*inside).interval} points"
    yield Claim("Fig. 6", statement, "more (no values)", here, verdict(paired(inside[1], inside[0])))
    sizes = [Sample(tuple(100 * c.mean_magnitude for c in column)) for column in zip(*found)]
    statement = f"Correlations move toward zero: the mean |r| is smaller there in {dynamic.title}"
    here = f"100 |r|: {sizes[0].mean:.1f} against {sizes[1].mean:.1f}: {paired(*sizes).interval}"
    yield Claim("Fig. 6", statement, "they do (no values)", here, verdict(paired(*sizes)))


def _latency(results: Results) -> Iterator[Claim]:
    measured = select(latencies(results.plan), image_size=224, batch=1)
    for network in values(measured, "pair"):
        found = best(select(measured, pair=network))
        if found.dynamic is None or found.base is None or found.same_runtime is None:
            continue
        fast, slow = found.dynamic, found.base
        here = f"{1000 * fast.median:.1f} against {1000 * slow.median:.1f} ms, {found.same_runtime:.2f} times as fast"
        decided: Verdict = "not decided"
        busy = latency_busy(results.plan) or 0
        here += f" ({100 * busy:.0f} % of the processor was used by others)" if busy >= BUSY else ""
        if busy >= BUSY:
            pass
        elif fast.upper_quartile < slow.lower_quartile:
            decided = "seen"
        elif fast.lower_quartile > slow.upper_quartile:
            decided = "not seen"
        titles = [model_info(name).title for name in (network, slow.cell.network)]
        statement = f"{titles[0]} is faster than {titles[1]} on a CPU (quartiles do not overlap)"
        paper = PAPER.get(network)  # milliseconds
        told = f"{paper[1] / paper[0]:.2f} times as fast" if paper else "not measured there"
        yield Claim("Table 2", statement, told, here, decided)


def _pairs(results: Results, key: str) -> Iterator[tuple[Arm, Arm, Sample]]:
    experiment = results.plan.experiments.get(key)
    for first, second in experiment.pairs if experiment else ():
        found = difference(results, first, second)
        if found is not None:
            yield first, second, found


def _times(results: Results, first: Arm, second: Arm) -> str:
    return f"{results.macs(first) / results.macs(second):.2f} times"


def _paper(key: str, first: Arm, second: Arm) -> str:
    found = paper_difference(key, first, second)
    return "not in the paper" if found is None else f"{found:+.2f} points"
