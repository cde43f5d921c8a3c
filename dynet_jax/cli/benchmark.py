"""`dynet benchmark`: how fast dynamic networks are on this machine's processor, beside their bases."""

from dynet_jax.arguments import list_argument, path_argument, positive_argument
from dynet_jax.console import say
from dynet_jax.errors import UserError, suggest
from dynet_jax.number_formats import NUMBERS

FILES = ("latency.csv", "table2.md", "latency_ratio.png", "table2.png")
LARGEST_BATCH = 4096


def add_benchmark(commands) -> None:
    parser = commands.add_parser(
        "benchmark",
        help="how fast networks are on this machine's processor, beside their bases: the paper's Table 2 and Fig. 7",
        description="Measures networks, and the bases of those that are compared with one, with random weights, in "
        "every runtime that is installed. All take turns. Nothing else should be running.",
        epilog="examples: dynet benchmark --out=latency; dynet benchmark --import=my_networks.py my_network; "
        "dynet benchmark --image-sizes=128,224,320,448,640,896 --runtimes=native,onnxruntime --numbers=float32; "
        "dynet benchmark --batch=8,32,128 --runtimes=native,onnxruntime,jax --numbers=float32",
    )
    parser.add_argument("models", nargs="*", metavar="NETWORK", help="default: the paper's four dynamic networks")
    parser.add_argument("--networks", type=list_argument, default=[], metavar="NAMES", help="the same, as one word")
    parser.add_argument("--runtimes", type=list_argument, metavar="NAMES", help="default: all that are installed")
    parser.add_argument(
        "--numbers",
        type=list_argument,
        metavar="NAMES",
        help=f"of {', '.join(NUMBERS)}; default: all that a runtime has",
    )
    parser.add_argument("--threads", type=_numbers, metavar="N,...", help="default: 1 and all cores")
    parser.add_argument(
        "--image-sizes", "--image-size", type=_numbers, default=[224], metavar="N,...", help="default: 224"
    )
    parser.add_argument("--batch", type=_numbers, default=[1], metavar="N,...", help="images per run; default: 1")
    parser.add_argument(
        "--runs", type=positive_argument, default=50, help="of each; fewer of what takes long; default: 50"
    )
    parser.add_argument("--width", type=float, default=1.0, help="of all networks; default: 1")
    parser.add_argument(
        "--calibrate",
        metavar="FOLDER",
        default="",
        help="images by which the ranges of int8 maps are chosen; without it images of noise, which are as fast",
    )
    parser.add_argument("--out", type=path_argument, metavar="DIR", help=f"where to write {', '.join(FILES)}")
    parser.add_argument("--overwrite", action="store_true", help="the files in DIR if they are there")
    parser.add_argument("--list", action="store_true", help="list the runtimes that there are, and measure nothing")
    parser.set_defaults(run=_benchmark, less_memory="use a smaller --batch or --image-sizes")


def _benchmark(options) -> None:
    from dynet_jax.analysis.latency import OF_THE_PAPER, LatencyPlan, measure
    from dynet_jax.analysis.latency_compare import csv_of
    from dynet_jax.analysis.latency_report import disturbance, document, machine_lines
    from dynet_jax.analysis.post_training import check_calibration
    from dynet_jax.machine import cores

    if options.list:
        print(_runtime_list())
        return
    if max(options.batch) > LARGEST_BATCH:
        raise UserError(f"--batch={max(options.batch)} is more than {LARGEST_BATCH} images, which would take hours")
    if options.overwrite and options.out is None:
        raise UserError("--overwrite is of the files in --out=DIR, which is not given")
    if options.calibrate:
        check_calibration(options.calibrate)
    threads = _threads(options.threads, cores())
    runtimes, missing = _runtimes(options.runtimes, options.numbers)
    sizes = {"image_sizes": options.image_sizes, "batches": options.batch}
    networks = list(dict.fromkeys([*options.models, *options.networks]))
    plan = LatencyPlan(
        networks or OF_THE_PAPER,
        runtimes,
        threads,
        **sizes,
        runs=options.runs,
        width=options.width,
        calibration=options.calibrate,
    )
    _claim(options.out, options.overwrite)
    for line in missing:
        say(line)
    measurements, parts = [], []
    for measured, profiled in measure(plan, say):
        measurements, parts = measurements + measured, parts + profiled
        if options.out is not None:  # what there is so far, in case that it is interrupted
            (options.out / FILES[0]).write_text(csv_of(measurements))
    notes = [
        *machine_lines(dict.fromkeys(name for name, _ in runtimes), len(cores())),
        f"Medians of {options.runs} runs (at least 5 of what takes long), each right after others that are not timed. "
        "All take turns, so that drift of the machine is everyone's. From bytes to logits, normalisation included.",
        "Ratios are time of the base / time of the dynamic network: above 1, the dynamic one is faster.",
        "float32 and bfloat16 are what is computed with; ...-banks stores what is read once per image (banks, "
        "predictors, classifier) in less; int8 is maps and kernels in bytes, of other runtimes "
        "for static networks alone.",
        *missing,
        *disturbance(measurements),
    ]
    text = document(measurements, parts, notes)
    print(text, end="")
    if options.out is not None:
        _write(options.out, text, measurements)


def _write(out, text: str, measurements) -> None:
    from dynet_jax.analysis import latency_plots
    from dynet_jax.analysis.latency_compare import select, values

    _, table2, figure7, bars = (out / name for name in FILES)
    table2.write_text(text)
    single = select(measurements, batch=1)
    if single:
        sizes = values(single, "image_size")
        size = 224 if 224 in sizes else sizes[0]
        latency_plots.plot_reductions(single, figure7, "Latency saved: 100 % - L_dynamic / L_base, one image")
        latency_plots.plot_table2(select(single, image_size=size), bars, f"One image of {size} px (Table 2)")
    say(f"written to {out}")


def _runtime_list() -> str:
    """A line for each: what it is, its numbers, how many threads it takes, its version or what is missing."""
    from dynet_jax.analysis.runtimes import RUNTIMES
    from dynet_jax.analysis.table import Table

    rows = []
    for name, runtime in RUNTIMES.everything().items():
        problem = runtime.missing()
        numbers = None if problem else ", ".join(runtime.offered)
        rows.append((name, runtime.about, numbers, runtime.threads, problem or runtime.versions()))
    return Table(("runtime", "what it is", "numbers", "threads", "version"), rows).markdown()


def _runtimes(names: list[str] | None, wanted: list[str] | None) -> tuple[list[tuple[str, str]], list[str]]:
    """([(runtime, numbers), ...], a line for each runtime that is not there)"""
    from dynet_jax.analysis.runtimes import RUNTIMES

    runtimes = RUNTIMES.everything()
    for option, given, known in (("--runtimes", names, runtimes), ("--numbers", wanted, NUMBERS)):
        for name in given or ():
            if name not in known:
                raise UserError(f"{option} has no {name!r}; {suggest(name, known)}")
    problems = {name: runtimes[name].missing() for name in names or runtimes}
    missing = [f"{name} is not measured: {problem}" for name, problem in problems.items() if problem]
    found = []
    for name in (name for name, problem in problems.items() if not problem):
        offered = [numbers for numbers in runtimes[name].offered if numbers in (wanted or NUMBERS)]
        found += [(name, numbers) for numbers in offered]
        if not offered:
            missing.append(f"{name} is not measured: it has {', '.join(runtimes[name].offered)} alone")
    if not found:
        raise UserError("there is no runtime to measure: " + "; ".join(missing))
    return found, missing


def _threads(given: list[int] | None, cores: list[int]) -> list[int]:
    import os

    pinned = hasattr(os, "sched_setaffinity")
    if given is None:
        return sorted({1, len(cores)}) if pinned else [len(cores)]
    if max(given) > len(cores):
        raise UserError(f"--threads={max(given)} is more than the {len(cores)} cores that there are")
    if not pinned and given != [len(cores)]:
        raise UserError(f"this system cannot pin processes to cores: only --threads={len(cores)} can be measured")
    return given


def _claim(out, overwrite: bool) -> None:
    """Make the folder now: what has been measured for an hour should not be lost for the want of it."""
    if out is None:
        return
    # An empty file is what is left where a measurement died before its first result.
    present = [name for name in FILES if (out / name).exists() and (out / name).stat().st_size]
    if present and not overwrite:
        raise UserError(f"{out} has {', '.join(present)} already; name another folder, or add --overwrite")
    out.mkdir(parents=True, exist_ok=True)
    (out / FILES[0]).touch()


def _numbers(text: str) -> list[int]:
    return list_argument(text, positive_argument)
