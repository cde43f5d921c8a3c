"""`dynet reproduce`: the paper's experiments on a dataset, and a report of what they show."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

from dynet_jax.arguments import FAILED, list_argument, overrides, path_argument, positive_argument
from dynet_jax.console import say
from dynet_jax.errors import UserError


def add_reproduce(commands) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="the paper's experiments on your data: trains, measures, and writes a report with figures",
        description="Trains the networks of the paper's Tables 1, 4, 5, 6 and Fig. 5 with several seeds, measures "
        "correlations, coefficients and latency, and writes report.html and report.md. Stopped, it goes on by the same "
        "command; what is finished is not done again.",
        epilog="examples: dynet reproduce --dataset=digits --budget=small --out=runs/reproduce-digits; "
        "dynet reproduce --dataset=folder:PATH --budget=medium --experiments=table4,figure5 --config.epochs=20",
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="digits, fashion_mnist, folder:PATH, ...")
    parser.add_argument("--data-dir", metavar="DIR", help="where it is prepared")
    parser.add_argument(
        "--like",
        metavar="NAME",
        help="digits, fashion_mnist, cifar10, folder or imagenet2012, whose image size and number of epochs are taken; "
        "default: the dataset's own, and `folder` of any packed:PATH",
    )
    parser.add_argument("--budget", default="small", metavar="NAME", help="small, medium or paper; default: small")
    parser.add_argument("--out", type=path_argument, metavar="DIR", help="default: runs/reproduce-DATASET-BUDGET")
    known = "of table1, table4, table5, table6, figure5; default: all, and the latency of full-size networks"
    parser.add_argument("--experiments", type=_names, default=[], metavar="NAME,...", help=known)
    own = "other networks, such as your own, beside their bases and twins; alone, or with --experiments"
    parser.add_argument("--networks", type=_names, default=[], metavar="NAME,...", help=own)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each network; default: 3")
    parser.add_argument(
        "--workers", type=positive_argument, metavar="N", help="runs side by side on a CPU; default: one per core"
    )
    parser.add_argument("--report-only", action="store_true", help="write the report of what there is, train nothing")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and what they cost, and write nothing")
    parser.add_argument(
        "--remeasure", action="store_true", help="measure latencies again, if the machine was busy the last time"
    )
    parser.set_defaults(run=_reproduce, takes_overrides=True)


def _names(text: str) -> list[str]:
    return list_argument(text, example="table4,figure5")


def _reproduce(options) -> int:
    from pathlib import Path

    from dynet_jax.reproduce.measurements import forget_latencies, measure_plan
    from dynet_jax.reproduce.plan import Plan
    from dynet_jax.reproduce.report import note_device, note_failures, note_unmeasured
    from dynet_jax.reproduce.training import arrange, train_plan

    kind = options.dataset.partition(":")[0]
    plan = Plan(
        options.dataset,
        options.budget,
        options.out or Path("runs") / f"reproduce-{kind}-{options.budget}",
        data_dir=options.data_dir,
        like=options.like,
        seeds=options.seeds,
        only=options.experiments,
        networks=options.networks,
        overrides=overrides(options.overrides),
    )
    plan.check()
    if options.remeasure and (options.dry_run or options.report_only):
        raise UserError("--remeasure measures, which --dry-run and --report-only do not; leave one of them out")
    plan.check_folder()
    plan.check_runs()
    if options.dry_run:
        print(_runs_table(plan))
        say(plan.decides)
        return 0
    if options.report_only:
        if not any(job.is_finished for arm in plan.arms for job in plan.jobs(arm)):
            raise UserError(f"there are no finished runs of this plan in {plan.out}; train them without --report-only")
        return _report(plan)
    with plan.claim():
        if options.remeasure:
            forget_latencies(plan)
        device = _device()
        arrangement = arrange(options.workers, device, plan.threads)
        # One worker trains all seeds of a network.
        arrangement = arrangement._replace(workers=min(arrangement.workers, len(plan.arms)))
        plan.settle(device, arrangement.threads)
        runs = len(plan.arms) * len(plan.seeds)
        say(f"{len(plan.arms)} networks, {runs} runs of {plan.steps} steps, {arrangement.workers} at a time")
        say(plan.decides)
        if plan.unfinished:
            note_device(plan, device, *arrangement)
        failed = train_plan(plan, arrangement, say)
        note_failures(plan, failed)
        with _leaving_by_signal():
            not_measured = measure_plan(plan, say)
            note_unmeasured(plan, not_measured)
            _report(plan)
        return FAILED if failed or not_measured else 0


@contextlib.contextmanager
def _leaving_by_signal() -> Iterator[None]:
    """SIGTERM and Ctrl-C end it in the way of training, with nothing lost but the measurement under way."""
    from dynet_jax.reproduce.training import Interrupted

    def leave(number, frame):
        raise Interrupted("stopped; run the same command to go on")

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _report(plan) -> int:
    from dynet_jax.reproduce.report import write_report

    for file in write_report(plan):
        print(file)
    return 0


def _runs_table(plan) -> str:
    from dynet_jax.analysis.table import Table
    from dynet_jax.reproduce.results import Results

    results, seeds = Results(plan), len(plan.seeds)
    rows = []
    for arm in plan.arms:
        of = ", ".join(key for key, experiment in plan.experiments.items() if arm in experiment.arms)
        rows.append((arm.name, of, f"{len(results.seeds(arm))}/{seeds}", plan.steps, f"{results.macs(arm) / 1e6:.2f}"))
    return Table(("network", "of", "finished", "steps of each", "MACs, 1e6"), rows).markdown()


def _device() -> str:
    """What JAX computes on, 'cpu' or an accelerator's name, asked in a process of its own.

    This process must not take the accelerator's memory.
    """
    ask = "from dynet_jax.hardware import devices; d, *_ = devices(); "
    ask += "print('cpu' if d.platform == 'cpu' else d.device_kind)"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UserError(reason.partition("UserError: ")[2] or f"JAX does not start: {reason}")
    return answer.stdout.strip().splitlines()[-1]
