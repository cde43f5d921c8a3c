"""`dynet reproduce`: the paper's experiments on a dataset, and a report of what they show."""

import argparse
import subprocess
import sys

from dynet_jax.cli.parsing import FAILED, overrides, path_argument
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
    parser.add_argument("--budget", default="small", metavar="NAME", help="small, medium or paper; default: small")
    parser.add_argument("--out", type=path_argument, metavar="DIR", help="default: runs/reproduce-DATASET-BUDGET")
    parser.add_argument("--experiments", metavar="NAME,...", help="of table1, table4, table5, table6, figure5")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each network; default: 3")
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="runs side by side; default: one per core, or per accelerator"
    )
    parser.add_argument("--report-only", action="store_true", help="write the report of what there is, train nothing")
    parser.set_defaults(run=_reproduce, takes_overrides=True)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _reproduce(options) -> int:
    from pathlib import Path

    from dynet_jax.reproduce.measurements import measure_plan, pending
    from dynet_jax.reproduce.plan import Plan
    from dynet_jax.reproduce.report import note_device, write_report
    from dynet_jax.reproduce.training import number_of_workers, train_plan

    kind = options.dataset.partition(":")[0]
    plan = Plan(
        options.dataset,
        options.budget,
        options.out or Path("runs") / f"reproduce-{kind}-{options.budget}",
        data_dir=options.data_dir,
        seeds=options.seeds,
        only=options.experiments.split(",") if options.experiments else (),
        overrides=overrides(options.overrides),
    )
    plan.check()
    plan.claim()
    plan.check_runs()
    failed = {}
    if not options.report_only:
        device = _device()
        workers = number_of_workers(options.workers, device)
        arms, seeds = len(plan.arms), len(plan.seeds)
        _say(f"{arms} networks x {seeds} seeds = {arms * seeds} runs of {plan.steps} steps, {workers} at once")
        if plan.unfinished or pending(plan):
            note_device(plan, device, workers)
        failed = train_plan(plan, workers, _say)
        measure_plan(plan, _say)
    for file in write_report(plan, failed):
        print(file)
    return FAILED if failed else 0


def _device() -> str:
    """What JAX computes on, 'cpu' or an accelerator's name, asked in a process of its own.

    This process must not take the accelerator's memory.
    """
    ask = "import jax; d, *_ = jax.devices(); print('cpu' if d.platform == 'cpu' else d.device_kind)"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    if answer.returncode:
        raise UserError(f"JAX does not start: {answer.stderr.strip().splitlines()[-1]}")
    return answer.stdout.strip().splitlines()[-1]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
