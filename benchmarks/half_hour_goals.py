"""The goals of `benchmarks.gpu_half_hour`, and what the results say of them."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.half_hour_run import FINISHED
from benchmarks.half_hour_sections import CORRECTNESS, TRAINING, make_sections
from benchmarks.throughput_cells import FAMILIES
from dynet_jax.analysis.table import Table

RATIOS = (("of_twin", "Fix", 0.8), ("of_base", "base", 1.0))  # in training images/s
HEADER = ("goal", "found", "verdict")
MET, MISSED, NOT_MEASURED = "met", "missed", "not measured"


def goals(sections: Mapping[str, dict], rehearsal: bool) -> list[dict]:
    """Returns {'goal', 'found', 'verdict'} of each: met, missed, or not measured. A rehearsal measures nothing."""
    rows = [(name, row) for name, section in sections.items() for row in section["rows"]]
    found = [_correctness({name: section for name, section in sections.items() if name.startswith(CORRECTNESS)})]
    for family, subjects in FAMILIES.items():
        network = next(subject.network for subject in subjects if subject.twin and subject.framework == "jax")
        of_network = [row for name, row in rows if name.startswith(f"{TRAINING}_") and row.get("network") == network]
        found += [_ratio(family, of_network, *ratio) for ratio in RATIOS]
    return [goal | {"found": "", "verdict": NOT_MEASURED} for goal in found] if rehearsal else found


def _correctness(sections: Mapping[str, dict]) -> dict:
    """Returns the verdict on all cases; nothing is known of those that an unfinished section has not reached."""
    rows = [row for section in sections.values() for row in section["rows"]]
    passed = sum(row["passed"] for row in rows)
    all_names = {section.name for section in make_sections(Path(), 1, None, False)}
    due = {name for name in all_names if name.startswith(CORRECTNESS)}
    finished = due & {name for name, section in sections.items() if section["status"] == FINISHED}
    verdict = MISSED if passed < len(rows) else MET if finished == due else NOT_MEASURED
    found = f"{passed} of {len(rows)} cases; {len(finished)} of {len(due)} sections finished"
    return {"goal": "all forms, kernels and networks are correct", "found": found, "verdict": verdict}


def _ratio(family: str, rows: list[dict], key: str, other: str, least: float) -> dict:
    """Returns the verdict on the fastest form of a dynamic network."""
    goal = {"goal": f"{family}: training images/s, Dy / {other} at least {least:g}"}
    best = max((row for row in rows if key in row), key=lambda row: row[key], default=None)
    if best is None:
        return goal | {"found": "", "verdict": NOT_MEASURED}
    verdict = MET if best[key] >= least else MISSED
    return goal | {"found": f"{best[key]:.2f} ({best['form']}, batch {best['batch']})", "verdict": verdict}


def goals_table(found: list[dict]) -> Table:
    return Table(HEADER, [tuple(goal[word] for word in HEADER) for goal in found])
