"""The commands: `train.py`, and `dynet`'s summary, prepare, evaluate, predict, import-torch.

A user's mistake is one line.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from dynet_jax.errors import UserError

FAILED, INTERRUPTED = 2, 130  # 128 + SIGINT, as a shell would say it


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line: usage is for --help."""

    def error(self, message: str):
        self.exit(FAILED, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> int:
    """The `dynet` command. Returns its exit code."""
    parser = _Parser(prog="dynet", description="Dynamic convolutional networks in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_summary(commands)
    _add_prepare(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_import_torch(commands)
    _add_compile_tpu(commands)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "compile-tpu":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides = rest

    def run():
        if options.command in ("evaluate", "predict"):
            from dynet_jax.train.checkpoint import report_failures_once

            report_failures_once()
        return options.run(options)

    return _report_mistakes("dynet", run)


def train_main(arguments: list[str] | None = None) -> int:
    """The `train.py` command. Returns its exit code."""
    parser = _Parser(
        prog="train.py",
        description="Train a network. The same command again continues from the newest checkpoint in WORKDIR.",
        usage="train.py --config=FILE[:VARIANT] [--workdir=DIR] [--config.KEY=VALUE ...] [options]",
        epilog="example: python train.py --config=configs/dy_mobile.py:digits --workdir=runs/digits --config.epochs=5",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="e.g. configs/dy_mobile.py:digits")
    parser.add_argument("--workdir", metavar="DIR", type=Path, help="default: runs/NAME-VARIANT")
    parser.add_argument(
        "--init_from", metavar="DIR", type=_path, help="begin with the parameters of another work directory"
    )
    parser.add_argument(
        "--allow_config_change", action="store_true", help="go on although the configuration of WORKDIR was another"
    )
    parser.add_argument(
        "--profile", type=int, default=0, metavar="STEPS", help="trace so many steps, for TensorBoard's profile page"
    )
    _add_hosts(parser)
    options, rest = parser.parse_known_args(arguments)

    def run():
        from dynet_jax.train.checkpoint import report_failures_once
        from dynet_jax.train.config import load_config, override
        from dynet_jax.train.hosts import leave
        from dynet_jax.train.loop import train
        from dynet_jax.train.startup import use_compilation_cache

        if options.workdir is not None and not options.workdir.name:
            raise UserError("--workdir must name a directory for this run alone, like runs/digits")
        if options.profile < 0:
            raise UserError(f"--profile must be a number of steps, not {options.profile}")
        config = load_config(options.config)
        override(config, _overrides(rest) + ([] if options.init_from is None else [f"init_from={options.init_from}"]))
        path, _, variant = options.config.partition(":")
        workdir = options.workdir or Path("runs") / "-".join(filter(None, (Path(path).stem, variant)))
        use_compilation_cache()
        report_failures_once()
        _join_hosts(options)
        code = train(config, workdir, allow_config_change=options.allow_config_change, profile_steps=options.profile)
        leave()
        return code

    return _report_mistakes("train.py", run)


def _overrides(rest: list[str]) -> list[str]:
    for argument in rest:
        if not argument.startswith("--config.") or "=" not in argument:
            raise UserError(f"cannot read {argument!r}; set a key as --config.KEY=VALUE, or see --help")
    return rest


def _add_hosts(parser) -> None:
    group = parser.add_argument_group("several hosts", "the same command on each of them; see docs/training.md")
    group.add_argument("--distributed", action="store_true", help="on a Cloud TPU pod, or under SLURM or Open MPI")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="elsewhere: an address on the first host")
    group.add_argument("--processes", type=int, metavar="N", help="with --coordinator: how many there are")
    group.add_argument("--process", type=int, metavar="I", help="with --coordinator: which one this is, from 0")
    group.add_argument(
        "--heartbeat_timeout", type=int, default=100, metavar="SECONDS", help="of silence until a host counts as dead"
    )


def _join_hosts(options) -> None:
    from dynet_jax.train import hosts

    if options.heartbeat_timeout < 1:
        raise UserError(f"--heartbeat_timeout must be positive, not {options.heartbeat_timeout}")
    explicit = (options.coordinator, options.processes, options.process)
    if any(value is not None for value in explicit):
        if any(value is None for value in explicit):
            raise UserError("--coordinator, --processes and --process go together")
        if not 0 <= options.process < options.processes:
            raise UserError(f"--process={options.process} is not one of --processes={options.processes}, from 0")
    elif not options.distributed:
        return
    hosts.join(*explicit, heartbeat_seconds=options.heartbeat_timeout)


def _report_mistakes(program: str, run: Callable[[], int | None]) -> int:
    code = FAILED
    try:
        return run() or 0
    except UserError as error:
        code, message = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, message = INTERRUPTED, "interrupted"
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        message = f"{error.strerror}: {error.filename}" if error.filename else str(error)
    print(f"{program}: {message}", file=sys.stderr)
    return code


def _path(text: str) -> Path:
    """Not '': that is what an unset variable of the shell leaves, and it would mean the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return Path(text)


def _step(text: str) -> int | str:
    if text != "best" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'best'")
    return text if text == "best" else int(text)


def _add_step(parser) -> None:
    parser.add_argument("--step", type=_step, metavar="N", help="of the checkpoint, or 'best'; default: the newest")


def _add_summary(commands) -> None:
    parser = commands.add_parser(
        "summary",
        help="multiply-adds and parameters of networks, beside the paper's",
        description="One MODEL: layer by layer. Several, or --all: side by side, and beside the paper's numbers.",
        epilog="examples: dynet summary dy_mobile --width=0.5; dynet summary resnet18 dy_resnet18; dynet summary --all",
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names of dynet_jax.list_models()")
    parser.add_argument("--all", action="store_true", help="every network, and the FLOPs of the paper's tables 1, 3, 4")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--num-classes", type=int)
    parser.add_argument("--width", type=float)
    parser.add_argument("--group-size", type=int)
    parser.add_argument("--small-input", action="store_const", const=True, help="stride 8, for images of about 32x32")
    parser.set_defaults(run=_summary)


def _summary(options) -> None:
    from dynet_jax.analysis import summary
    from dynet_jax.analysis.subject import Subject
    from dynet_jax.models import list_models

    keys = ("num_classes", "width", "group_size", "small_input")
    arguments = {key: getattr(options, key) for key in keys if getattr(options, key) is not None}
    if options.all == bool(options.models):
        raise UserError(f"name one or more models, or --all; the models are {', '.join(list_models())}")
    if options.all and (arguments or options.image_size is not None):
        raise UserError("--all shows the networks as the paper has them; name models to change their arguments")
    if options.image_size is not None and options.image_size < 1:
        raise UserError(f"--image-size must be positive, not {options.image_size}")
    subjects = [Subject(name, arguments, options.image_size or 224) for name in options.models]
    subjects = subjects or summary.all_subjects()
    if options.csv:
        table = summary.layer_table(subjects[0]) if len(subjects) == 1 else summary.csv_table(subjects)
        print(table.csv())
        return
    rows = summary.ROWS if options.all else [row for subject in subjects for row in summary.rows_of(subject)]
    print(summary.summarize(subjects, rows))


def _add_prepare(commands) -> None:
    parser = commands.add_parser(
        "prepare",
        help="write a dataset, once, in the form that training reads",
        epilog="examples: dynet prepare imagenet2012 --archives=downloads --data-dir=datasets; "
        "dynet prepare folder:photos --data-dir=datasets/photos, to train on packed:datasets/photos",
    )
    parser.add_argument("dataset", help="imagenet2012, cifar10, cityscapes, or folder:PATH of class folders")
    parser.add_argument("--archives", metavar="DIR", help="the folder of ImageNet's tar or Cityscapes' zip files")
    parser.add_argument("--data-dir", metavar="DIR", help="where to write; ~/tensorflow_datasets if not of a folder")
    parser.set_defaults(run=_prepare)


def _prepare(options) -> None:
    from dynet_jax.data.prepare import prepare

    print(prepare(options.dataset, options.data_dir, options.archives))


def _add_compile_tpu(commands) -> None:
    parser = commands.add_parser(
        "compile-tpu",
        help="whether and how fast a configuration would run on a slice of TPUs, without one",
        description="Compiles both steps of a run with the TPU's compiler (`make env-tpu` installs it) "
        "and prints what it counts, and what the published peaks of the chip make of that.",
        epilog="examples: dynet compile-tpu configs/dy_mobile.py --topology=v5e:16x16; dynet compile-tpu "
        "configs/dy_mobile.py --compare=configs/mobilenet_v2.py --config.dtype=bfloat16",
        usage="dynet compile-tpu CONFIG [--topology=CHIP:SHAPE] [--compare=CONFIG] [--config.KEY=VALUE ...]",
    )
    parser.add_argument("config", help="a file as train.py takes it, FILE[:VARIANT]")
    parser.add_argument("--topology", default="v5e:2x2", help="v4, v5e, v5p or v6e and its grid; default: v5e:2x2")
    parser.add_argument("--compare", metavar="CONFIG", help="another file, compiled too and shown beside it")
    parser.set_defaults(run=_compile_tpu)


def _compile_tpu(options) -> None:
    from dynet_jax.tpu.chips import parse_topology
    from dynet_jax.tpu.compiler import compile_for
    from dynet_jax.tpu.report import report
    from dynet_jax.train.config import load_config, override

    slice, files = parse_topology(options.topology), [options.config, *filter(None, [options.compare])]
    configs = [load_config(file) for file in files]
    for config in configs:
        override(config, _overrides(options.overrides))
    results = []
    for file, config in zip(files, configs):
        print(f"compiling {file} for {slice.name} (a few minutes) ...", file=sys.stderr, flush=True)
        results.append(compile_for(config, slice))
    print(report([Path(file).stem for file in files], results, slice))


def _add_evaluate(commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="accuracy of a trained network on its test set, or on another",
        epilog="example: dynet evaluate runs/digits",
    )
    parser.add_argument("workdir", type=_path, help="of train.py or import-torch")
    _add_step(parser)
    parser.add_argument("--data", metavar="NAME", help="another dataset, e.g. folder:PATH")
    parser.add_argument("--data-dir", metavar="DIR", help="where it is prepared")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_evaluate)


def _evaluate(options) -> None:
    import json

    from dynet_jax.predict import evaluate_workdir

    values = evaluate_workdir(options.workdir, options.data, options.data_dir, step=options.step)
    if options.json:
        print(json.dumps(values))
    else:
        print(
            f"top-1 {100 * values['top1']:.2f} % | top-5 {100 * values['top5']:.2f} % | loss {values['loss']:.4f} | "
            f"{values['examples']} images | step {values['step']}"
        )


def _add_import_torch(commands) -> None:
    parser = commands.add_parser(
        "import-torch",
        help="make a work directory of torchvision's or timm's weights",
        description="Makes WORKDIR, for `dynet evaluate` and `dynet predict`, of a static network's weights.",
        epilog="example: dynet import-torch resnet50 resnet50.safetensors runs/resnet50",
    )
    parser.add_argument("model", help="a static network of dynet_jax.list_models()")
    parser.add_argument("file", type=_path, help="a state dict: .safetensors, .npz, .pth, .pt or .bin")
    parser.add_argument("workdir", type=_path, help="where to write; a new or empty directory")
    parser.add_argument(
        "--labels", metavar="FILE", type=_path, help="names of the classes, one per line; else ImageNet's"
    )
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--padding", help="TORCH unless given; SAME for timm's variants that begin with tf_")
    parser.add_argument("--bn-epsilon", type=float, help="else by the kind of weights; 0.001 for timm's tf_ variants")
    parser.set_defaults(run=_import_torch)


def _import_torch(options) -> None:
    from dynet_jax.import_torch import import_torch

    given = {"width": options.width, "padding": options.padding, "bn_epsilon": options.bn_epsilon}
    arguments = {key: value for key, value in given.items() if value is not None}
    parameters = import_torch(options.model, options.file, options.workdir, labels=options.labels, **arguments)
    print(f"{parameters:,} parameters in {options.workdir}; try `dynet predict {options.workdir} IMAGE`")


def _add_predict(commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="the five most probable classes of images",
        epilog="example: dynet predict runs/imagenette photo.jpg holiday/ --json",
    )
    parser.add_argument("workdir", type=_path, help="of train.py or import-torch")
    _add_step(parser)
    parser.add_argument("images", nargs="+", type=_path, metavar="IMAGE", help="an image file, or a folder of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    parser.set_defaults(run=_predict)


def _predict(options) -> int:
    import json

    from dynet_jax.predict import predict_images

    failed = 0
    for prediction in predict_images(options.workdir, options.images, step=options.step):
        if prediction.error:
            failed = FAILED
            print(f"dynet: {prediction.error}", file=sys.stderr)
        elif options.json:
            top = [{"class": name, "probability": round(p, 6)} for name, p in prediction.top]
            print(json.dumps({"image": str(prediction.path), "top": top}))
        else:
            print(prediction.path)
            for name, probability in prediction.top:
                print(f"  {100 * probability:5.1f} %  {name}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
