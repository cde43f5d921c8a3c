"""The measurements of a plan as objects; empty if they have not been made."""

from collections.abc import Sequence

from dynet_jax.analysis.correlation import Correlation
from dynet_jax.analysis.latency import Measurement
from dynet_jax.analysis.latency_compare import read_csv
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.measurements import FOLDER, correlated_arms, read_measurement
from dynet_jax.reproduce.plan import Plan

ByArm = dict[Arm, dict[int, Correlation]]
BUSY = 0.15  # from this share of the processor on, other programs disturb measurements of time


def correlations(plan: Plan) -> tuple[ByArm, ByArm]:
    """Returns the correlations of Fig. 6 and of Fig. 2, by arm and seed."""
    figure6, figure2 = correlated_arms(plan)
    return _correlations(plan, figure6), _correlations(plan, figure2)


def _correlations(plan: Plan, arms: Sequence[Arm]) -> ByArm:
    found = {arm: {seed: c for seed in plan.seeds if (c := _correlation(plan, arm, seed))} for arm in arms}
    return {arm: by_seed for arm, by_seed in found.items() if by_seed}


def _correlation(plan: Plan, arm: Arm, seed: int) -> Correlation | None:
    found = read_measurement(plan, f"correlation/{arm.name}-s{seed}")
    return None if found is None else Correlation.from_dict(next(iter(found.values())))


def latencies(plan: Plan) -> list[Measurement]:
    """Returns the measurements of Table 2 and Fig. 7."""
    file = plan.out / FOLDER / "latency.csv"
    return read_csv(file) if file.exists() else []


def arm_latencies(plan: Plan) -> dict[Arm, tuple[float, float, float]]:
    """Returns quartiles of the milliseconds for one image, by arm."""
    found = (read_measurement(plan, "arm_latency") or {}).get("quartiles_ms", {})
    return {arm: tuple(found[arm.name]) for arm in plan.arms if arm.name in found}


def how_arm_latencies(plan: Plan) -> tuple[str, float | None]:
    """Returns the runtime of these measurements, and the load of other programs at the time."""
    found = read_measurement(plan, "arm_latency") or {}
    return found.get("runtime", "native"), found.get("busy")


def latency_busy(plan: Plan) -> float | None:
    """Returns the load of other programs when Table 2 and Fig. 7 were measured."""
    return (read_measurement(plan, "latency_machine") or {}).get("busy")


def busy_warning(busy: float | None) -> list[str]:
    """Returns a paragraph if measured times are not reliable."""
    if busy is None or busy < BUSY:
        return []
    return [
        f"**WARNING**: other programs used {100 * busy:.0f} % of the processor when these times were measured. Measure "
        "them again when the machine is quiet, by the same command with `--remeasure`."
    ]
