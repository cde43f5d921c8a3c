"""The measurements on trained arms, each made once and stored in OUT/measured, which the report reads.

A file is written when it is complete, so an interrupted measurement is made again.
"""

import functools
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dynet_jax.errors import UserError, named, one_line
from dynet_jax.machine import machine, share_of_others
from dynet_jax.measure.turns import Turns, consecutive, quartiles
from dynet_jax.reproduce.arms import Arm
from dynet_jax.reproduce.plan import Job, Plan, read_json
from dynet_jax.reproduce.results import Results
from dynet_jax.reproduce.training import Interrupted
from dynet_jax.workdir.files import write_whole

FOLDER, ERRORS_FILE = "measured", "errors.log"
ROUNDS, SECONDS_OF_WARMING = 15, 0.03
NEIGHBOURS, QUERIES = 5, 6
Say = Callable[[str], None]
ARM_LATENCY_FILE, LATENCY_FILE = "arm_latency.json", "latency.csv"  # these depend on the load of the machine


def forget_latencies(plan: Plan) -> None:
    """Deletes the latencies that this plan measures, so that they are measured again."""
    for name in (ARM_LATENCY_FILE, *([LATENCY_FILE] if plan.is_whole else [])):
        (plan.out / FOLDER / name).unlink(missing_ok=True)


def measure_plan(plan: Plan, say: Say) -> dict[Path, str]:
    """Makes all missing measurements that the finished runs allow. Returns {file: why it is missing}.

    A failed measurement does not prevent the others. Raises Interrupted after a signal.
    """
    (plan.out / FOLDER).mkdir(exist_ok=True)
    tasks, failed, start = list(_tasks(plan, Results(plan), say)), {}, time.monotonic()
    for number, (file, task) in enumerate(tasks):
        say(f"measuring {number + 1}/{len(tasks)}: {file.stem} ({time.monotonic() - start:.0f} s so far)")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_whole(file, task())
        except Interrupted:
            raise
        except Exception as error:
            failed[file] = one_line(error) if isinstance(error, UserError) else named(error)
            say(f"{file} cannot be measured: {failed[file]}")
            with (plan.out / FOLDER / ERRORS_FILE).open("a") as log:
                traceback.print_exc(file=log)
    return failed


def read_measurement(plan: Plan, name: str) -> dict | None:
    """Returns the content of OUT/measured/NAME.json; None if it does not exist."""
    file = plan.out / FOLDER / f"{name}.json"
    return read_json(file) if file.exists() else None


def correlated_arms(plan: Plan) -> tuple[list[Arm], list[Arm]]:
    """Returns [Dy-MobileNetV2, MobileNetV2] at the largest width, for Fig. 6, and other networks, for Fig. 2."""
    figure5 = plan.experiments.get("figure5")
    figure6 = list(figure5.pairs[-1]) if figure5 else []
    table1 = plan.experiments.get("table1")
    return figure6, [arm for arm in (table1.arms if table1 else ()) if arm not in figure6]


def coefficient_arms(plan: Plan) -> list[tuple[Arm, Arm]]:
    """Returns (dynamic, its fixed twin) of Table 4, in which coefficients and ranks are examined."""
    return list(plan.experiments["table4"].pairs) if "table4" in plan.experiments else []


def _tasks(plan: Plan, results: Results, say: Say) -> Iterator[tuple[Path, Callable[[], str]]]:
    """Yields due files with functions that return their content; a file that is newer than its runs is not due."""
    folder = plan.out / FOLDER

    def is_due(file: Path, jobs: list[Job]) -> bool:
        return not file.exists() or any(job.finished_at > file.stat().st_mtime for job in jobs)

    figure6, figure2 = correlated_arms(plan)
    wanted = []
    seeds_of = {arm: results.seeds(arm) for arm in figure6} | {arm: results.seeds(arm)[:1] for arm in figure2}
    for arm, seeds in seeds_of.items():
        for job in (plan.job(arm, seed) for seed in seeds):
            wanted.append((f"correlation/{arm.name}-s{job.seed}.json", job, _correlation))
    for pair in coefficient_arms(plan):
        for arm, measure in zip(pair, (_coefficients, _ranks)):
            for seed in results.seeds(arm)[:1]:
                wanted.append((f"coefficients/{arm.name}.json", plan.job(arm, seed), measure))
    for name, job, measure in wanted:
        if is_due(folder / name, [job]):
            yield folder / name, lambda measure=measure, job=job: measure(plan, job)
    if plan.is_whole and not (folder / LATENCY_FILE).exists():
        yield folder / LATENCY_FILE, lambda: _latency(plan, say)

    timed = [plan.job(arm, seed) for arm in plan.arms for seed in results.seeds(arm)[:1]]
    file, known = folder / ARM_LATENCY_FILE, (read_measurement(plan, "arm_latency") or {}).get("quartiles_ms", {})
    if timed and (is_due(file, timed) or any(job.arm.name not in known for job in timed)):
        yield file, lambda: _arm_latency(plan, timed)  # all of them again, because they have to alternate


def _correlation(plan: Plan, job: Job) -> str:
    from dynet_jax.analysis.correlation import correlate_workdir

    found = correlate_workdir(job.workdir, images=plan.budget.images)
    return json.dumps({layer: correlation.to_dict() for layer, correlation in found.items()})


def _coefficients(plan: Plan, job: Job) -> str:
    from dynet_jax.analysis.coefficients import coefficients_of_workdir, summarize_coefficients
    from dynet_jax.analysis.neighbour_plots import plot_nearest_images
    from dynet_jax.analysis.neighbours import choose_queries, nearest_images
    from dynet_jax.analysis.rank import ranks_of_trained

    trained, coefficients = coefficients_of_workdir(job.workdir, images=plan.budget.images)
    neighbours = nearest_images(coefficients, min(NEIGHBOURS, len(coefficients) - 1))
    queries = choose_queries(coefficients.labels, QUERIES)
    picture = plan.out / FOLDER / "coefficients" / f"{job.arm.name}-nearest.png"
    same = "" if neighbours.same_class is None else f": same class {100 * neighbours.same_class:.1f} %"
    title = f"{job.arm.title}\nnearest by coefficients{same}"
    plot_nearest_images(trained, coefficients, neighbours, queries, picture, title)
    summaries, ranks = summarize_coefficients(coefficients), ranks_of_trained(trained, coefficients)
    return json.dumps(
        {
            "coefficients": {layer: summary.to_dict() for layer, summary in summaries.items()},
            "ranks": {layer: rank.to_dict() for layer, rank in ranks.items()},
            "same_class": neighbours.same_class,
            "chance": neighbours.chance,
            "images": len(coefficients),
        }
    )


def _ranks(plan: Plan, job: Job) -> str:
    from dynet_jax.analysis.rank import ranks_of_trained
    from dynet_jax.analysis.trained import open_trained

    trained = open_trained(job.workdir, images=1)
    return json.dumps({"ranks": {layer: rank.to_dict() for layer, rank in ranks_of_trained(trained).items()}})


def _arm_latency(plan: Plan, jobs: list[Job]) -> str:
    """Returns milliseconds for one image in every arm, in alternation, so that drifts affect all equally."""
    from dynet_jax import inference

    models = {job.arm.name: inference.load(job.workdir) for job in jobs}
    size = plan.common.data.image_size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    busy, turns = share_of_others(), Turns()
    turns.take({name: functools.partial(_seconds, model, image) for name, model in models.items()}, ROUNDS)
    for name, error in turns.errors.items():
        raise UserError(f"{name}: {error}")
    found = {name: [1000 * seconds for seconds in quartiles(turns.times(name))] for name in models}
    runtime = f"{next(iter(models.values())).runtime}, {machine()}"
    return json.dumps({"runtime": runtime, "quartiles_ms": found, "busy": _busier(busy)})


def _busier(before: float | None) -> float | None:
    """Returns the load of others before or after a measurement, whichever is larger; None if it is unknown."""
    after = share_of_others()
    return None if before is None or after is None else max(before, after)


def _seconds(model, image: np.ndarray) -> float:
    """Returns the median time after untimed runs, in which caches fill and threads wake up."""
    times = consecutive(lambda: np.asarray(model.logits(image)), SECONDS_OF_WARMING, least=3)
    return statistics.median(times[len(times) // 2 :])


def _latency(plan: Plan, say: Say) -> str:
    """Measures Table 2 and Fig. 7 with random weights, at the paper's sizes of networks."""
    from dynet_jax.analysis import latency
    from dynet_jax.analysis.latency_compare import csv_of
    from dynet_jax.machine import cores

    budget = plan.budget
    runtimes = [(name, "float32") for name in _latency_runtimes()]
    wanted = latency.LatencyPlan(
        budget.latency_networks, runtimes, [len(cores())], budget.latency_sizes, runs=budget.latency_runs
    )
    busy = share_of_others()
    measured = [m for group, _ in latency.measure(wanted, say) for m in group]
    found = {"busy": _busier(busy), "machine": machine()}
    write_whole(plan.out / FOLDER / "latency_machine.json", json.dumps(found))
    return csv_of(measured)


def _latency_runtimes() -> list[str]:
    from dynet_jax.analysis.runtimes import RUNTIMES

    return ["native"] if RUNTIMES.find("native").missing() is None else ["jax"]
