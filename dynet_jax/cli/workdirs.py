"""`dynet evaluate` and `predict`, which use a work directory, and `import-torch`, which makes one."""

import argparse
import math
import sys
from pathlib import Path

from dynet_jax.arguments import FAILED, overrides, path_argument, positive_argument, workdir_argument
from dynet_jax.bucket import told
from dynet_jax.console import to_json, warn
from dynet_jax.errors import UserError


def add_workdir(parser) -> None:
    parser.add_argument("workdir", type=workdir_argument, help="of train.py or import-torch")
    add_step(parser)


def add_step(parser) -> None:
    parser.add_argument("--step", type=_step, metavar="N", help="of the checkpoint, or 'best'; default: the newest")


def _add_batch(parser) -> None:
    parser.add_argument(
        "--batch", type=positive_argument, metavar="N", help="images at once; default: what any device has memory for"
    )
    parser.set_defaults(less_memory="use a smaller --batch, down to --batch=1")


def _add_arithmetic(parser, default: str | None, about: str) -> None:
    parser.add_argument("--arithmetic", choices=("float32", "bfloat16", "int8"), default=default, help=about)
    parser.add_argument(
        "--calibrate",
        type=path_argument,
        metavar="FOLDER",
        help="images by which the ranges of int8 maps are chosen; default: those of the training",
    )


def _step(text: str) -> int | str:
    if text != "best" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'best'")
    return text if text == "best" else int(text)


def add_evaluate(commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="accuracy of a trained network on its test set, or on another",
        epilog="examples: dynet evaluate runs/digits; dynet evaluate runs/camvid --held-out --config.inference=slide",
    )
    add_workdir(parser)
    parser.add_argument(
        "--data", metavar="NAME", help="another dataset, e.g. folder:PATH, with all or some of the classes"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where it is prepared")
    parser.add_argument(
        "--coefficients",
        choices=("frozen", "shuffled", "half"),
        help="of a dynamic network, to see whether it uses them: each held at its mean over the test images, those of "
        "another test image, or all 0.5",
    )
    _add_batch(parser)
    _add_arithmetic(parser, None, "of the native engine, which is evaluated instead of the network in JAX")
    parser.add_argument("--held-out", action="store_true", help="on the test folder, where there is a val folder too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_evaluate, takes_overrides=True)


def _evaluate(options) -> None:
    from dynet_jax.predict import evaluate_workdir
    from dynet_jax.tasks.task import make_task
    from dynet_jax.workdir.echoes import report_failures_once
    from dynet_jax.workdir.files import read_config

    report_failures_once()
    values = evaluate_workdir(
        options.workdir,
        options.data,
        options.data_dir,
        step=options.step,
        held_out=options.held_out,
        changes=overrides(options.overrides),
        coefficients=options.coefficients,
        batch=options.batch,
        arithmetic=options.arithmetic,
        calibrate=options.calibrate,
    )
    if options.json:
        print(to_json(values))
        return
    report = make_task(read_config(options.workdir)).report(values)
    held = f" | coefficients {options.coefficients}" if options.coefficients else ""
    print(f"{report} | loss {values['loss']:.4f} | {values['examples']} images | step {values['step']}{held}")
    if "confusion" in values and not held:
        _show_confusion(options.workdir, values, "confusion_held_out.png" if options.held_out else "confusion.png")


def _show_confusion(workdir: Path, values: dict, name: str) -> None:
    """The classes one by one, and the figure."""
    import numpy as np

    from dynet_jax.analysis.plots import plot_confusion
    from dynet_jax.analysis.table import Table
    from dynet_jax.workdir.files import read_class_names

    names, confusion = read_class_names(workdir), np.asarray(values["confusion"])
    pixels = confusion.sum(axis=1) / max(1, confusion.sum())
    iou = [values.get(f"iou/{index}") for index in range(len(names))]
    rows = [(n, "-" if i is None else f"{100 * i:.2f}", f"{100 * p:.2f}") for n, i, p in zip(names, iou, pixels)]
    print(Table(("class", "IoU %", "share of pixels %"), rows).markdown())
    file = workdir / name
    try:
        with told(file):
            plot_confusion(confusion, names, file, f"{values['examples']} images, mIoU {100 * values['miou']:.2f} %")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
    print(f"what is taken for what: {file}")


def add_predict(commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="the five most probable classes of images, or the class of every pixel",
        epilog="example: dynet predict runs/imagenette photo.jpg holiday/ --json",
    )
    add_workdir(parser)
    parser.add_argument(
        "images", nargs="+", type=path_argument, metavar="IMAGE", help="an image file, or a folder of them"
    )
    parser.add_argument("--runtime", default="auto", metavar="NAME", help="auto, native or jax; default: the fastest")
    _add_batch(parser)
    _add_arithmetic(parser, "float32", "of the native engine; default: float32")
    parser.add_argument("--threads", type=positive_argument, metavar="N", help="default: one for each core")
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="for maps of classes; default: WORKDIR/predictions"
    )
    parser.set_defaults(run=_predict)


def _predict(options) -> int:
    from dynet_jax.inference.pictures import list_pictures
    from dynet_jax.predict import predict_images
    from dynet_jax.workdir.echoes import report_failures_once
    from dynet_jax.workdir.files import read_config

    report_failures_once()
    list_pictures(options.images)  # a missing image is named before a work directory is read
    if read_config(options.workdir).task == "segmentation":
        if options.batch is not None:
            raise UserError("--batch is for classifiers; a network for segmentation takes picture by picture")
        options.less_memory = ""
        return _segment(options)
    if options.out is not None:
        raise UserError("--out is for networks for segmentation, which write files")
    options.less_memory = "" if options.batch == 1 else options.less_memory
    failed = 0
    for prediction in predict_images(options.workdir, options.images, batch=options.batch, **_how(options)):
        if prediction.error:
            failed = FAILED
            print(f"dynet: {prediction.error}", file=sys.stderr)
            continue
        if options.json:
            top = [{"class": name, "probability": round(p, 6)} for name, p in prediction.top]
            print(to_json({"image": str(prediction.path), "top": top}))
        else:
            print(prediction.path)
            for name, probability in prediction.top:
                print(f"  {100 * probability:5.1f} %  {name}")
    return failed


def _how(options) -> dict:
    names = ("step", "runtime", "threads", "arithmetic", "calibrate")
    return {name: getattr(options, name) for name in names}


def _segment(options) -> int:
    from dynet_jax.segment import segment_images

    failed, out = 0, options.out or options.workdir / "predictions"
    for segmented in segment_images(options.workdir, options.images, out, **_how(options)):
        if segmented.error:
            failed = FAILED
            print(f"dynet: {segmented.error}", file=sys.stderr)
        elif options.json:
            shares = [{"class": name, "share": round(share, 6)} for name, share in segmented.shares]
            files = {"labels": str(segmented.labels), "overlay": str(segmented.overlay)}
            print(to_json({"image": str(segmented.path), **files, "shares": shares}))
        else:
            print(f"{segmented.path} -> {segmented.overlay}, {segmented.labels}")
            for name, share in segmented.shares[:5]:
                print(f"  {100 * share:5.1f} %  {name}")
    return failed


def add_import_torch(commands) -> None:
    parser = commands.add_parser(
        "import-torch",
        help="make a work directory of torchvision's or timm's weights",
        description="Makes WORKDIR, for `dynet evaluate` and `dynet predict`, of a static network's weights.",
        epilog="example: dynet import-torch resnet50 resnet50.safetensors runs/resnet50",
    )
    parser.add_argument("model", help="a static network of dynet_jax.list_models()")
    parser.add_argument("file", type=path_argument, help="a checkpoint: safetensors, .npz, or of torch.save")
    parser.add_argument("workdir", type=workdir_argument, help="where to write; a new or empty directory")
    parser.add_argument(
        "--labels", metavar="FILE", type=path_argument, help="names of the classes, one per line; else ImageNet's"
    )
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument(
        "--padding",
        choices=("TORCH", "SAME"),
        help="TORCH unless given; SAME for timm's variants that begin with tf_: then mean and std are 127.5 and "
        "BatchNorm's epsilon is 0.001, unless given",
    )
    parser.add_argument("--bn-epsilon", type=float, help="else by the kind of weights")
    parser.add_argument(
        "--state-dict", metavar="NAME", help="of several weights in the file; else moving averages are taken"
    )
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            type=_channels,
            metavar="R,G,B",
            help="what the network was trained with, of pixels from 0 to 1 or to 255; else ImageNet's",
        )
    parser.add_argument("--image-size", type=positive_argument, metavar="N", help="side of the crop; default: 224")
    parser.add_argument(
        "--resize-to", type=positive_argument, metavar="N", help="shorter side before; default: image size / 0.875"
    )
    parser.set_defaults(run=_import_torch)


def _channels(text: str) -> tuple[float, ...]:
    try:
        values = tuple(map(float, text.strip("[]()").split(",")))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, or three like 0.485,0.456,0.406")
    return values * (3 // len(values))


def _import_torch(options) -> None:
    from dynet_jax.import_torch import import_torch

    given = {"width": options.width, "padding": options.padding, "bn_epsilon": options.bn_epsilon}
    arguments = {key: value for key, value in given.items() if value is not None}
    which = {"labels": options.labels, "state_dict": options.state_dict, "data": _preprocessing(options)}
    for line in import_torch(options.model, options.file, options.workdir, **which, **arguments):
        print(line)


def _preprocessing(options) -> dict:
    """Keys of `config.data` that options give."""
    from dynet_jax.data.pixel_units import check_units, of_pixels

    data = {}
    if (options.mean is None) != (options.std is None):
        raise UserError("--mean and --std go together: give both")
    if options.mean is not None:
        mean, std = of_pixels(options.mean, options.std)
        if min(std) <= 0:
            raise UserError(f"--std must be positive, not {min(std):g}")
        warning = check_units(mean, std, "--")
        if not any(mean) and set(options.std) == {1.0}:
            warning = "--mean=0 --std=1 is taken as of pixels from 0 to 1; for those from 0 to 255, use --std=1.000001"
        if warning is not None:
            warn(warning)
        data |= {"mean": mean, "std": std}
    size = options.image_size or 224
    resized = options.resize_to or round(size / 0.875)
    if resized < size:
        raise UserError(f"--resize-to={resized} is less than --image-size={size}")
    return data | {"image_size": size, "resize_to": resized}
