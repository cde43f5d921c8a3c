"""The goals of `benchmarks.gpu_half_hour`, and what the results say of them."""

from collections.abc import Mapping

from benchmarks.half_hour_sections import CORRECTNESS, TRAINING
from benchmarks.throughput_cells import FAMILIES
from dynet_jax.analysis.table import Table

RATIOS = (("of_twin", "Fix", 0.8), ("of_base", "base", 1.0))  # in training images/s
HEADER = ("goal", "found", "verdict")
MET, MISSED, NOT_MEASURED = "met", "missed", "not measured"


def goals(sections: Mapping[str, dict], rehearsal: bool) -> list[dict]:
    """Returns {'goal', 'found', 'verdict'} of each: met, missed, or not measured. A rehearsal measures nothing."""
    rows = [(name, row) for name, section in sections.items() for row in section["rows"]]
    found = [_correctness([row for name, row in rows if name.startswith(CORRECTNESS)])]
    for family, subjects in FAMILIES.items():
        network = next(subject.network for subject in subjects if subject.twin and subject.framework == "jax")
        of_network = [row for name, row in rows if name.startswith(f"{TRAINING}_") and row.get("network") == network]
        found += [_ratio(family, of_network, *ratio) for ratio in RATIOS]
    return [goal | {"found": "", "verdict": NOT_MEASURED} for goal in found] if rehearsal else found


def _correctness(rows: list[dict]) -> dict:
    passed = sum(row["passed"] for row in rows)
    verdict = NOT_MEASURED if not rows else MET if passed == len(rows) else MISSED
    return {"goal": "all forms, kernels and networks are correct", "found": f"{passed} of {len(rows)} cases"} | {
        "verdict": verdict
    }


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
