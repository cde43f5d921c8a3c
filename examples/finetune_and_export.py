"""Fine-tunes a network on a folder of photographs, exports it to ONNX, and compares the file with the network.

    python examples/finetune_and_export.py FOLDER --init_from=WORKDIR --workdir=DIR [--epochs=10]

FOLDER is laid out as FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg. WORKDIR is one of train.py or of
`dynet import-torch`; without it the network begins with random weights. The same command goes on after a stop, which
Ctrl-C or SIGTERM ask for and exit code 75 answers. Needs `pip install onnx onnxruntime`.
"""

import importlib.util
import os
import signal
import sys
from pathlib import Path

CHECKED_IMAGES = 4
TOLERANCE = 1e-4  # of the largest logit, or of 1


def leave(number, frame):
    """Answers signals before and after training, which has its own answer and saves first."""
    os.write(2, b"finetune_and_export.py: stopped; run the same command to resume\n")
    os._exit(75)


def configuration(folder: Path, init_from: Path | None, epochs: float):
    """Returns the paper's recipe for a small dataset, with the network and image sizes of `init_from`."""
    from dynet_jax.config.recipe import paper_recipe
    from dynet_jax.data import load_source
    from dynet_jax.workdir.files import read_config

    config = paper_recipe("dy_mobile", width=0.5, group_size=6)
    config.data.update({"image_size": 96, "resize_to": 112})
    if init_from is not None:
        pretrained = read_config(init_from)
        config.model = pretrained.model.to_dict()
        config.data.update({key: pretrained.data[key] for key in ("image_size", "resize_to", "mean", "std")})
        config.init_from = str(init_from)
    photographs = load_source(f"folder:{folder}", "train")
    config.data.name, config.data.threads = f"folder:{folder}", 4
    config.model.num_classes = len(photographs.class_names)
    config.batch_size, config.bn_batch_size = min(32, len(photographs)), None
    config.learning_rate, config.epochs, config.warmup_epochs = 0.01, epochs, min(1.0, epochs / 4)
    config.dtype = "float32"
    config.log_every_steps, config.checkpoint_every_steps = 10, 50
    return config.lock()


def largest_difference(file: Path, workdir: Path) -> tuple[float, float]:
    """Returns the largest difference of the file's logits from the network's on some images, and the largest logit."""
    import jax
    import numpy as np
    import onnxruntime

    from dynet_jax.ops.pixels import normalize
    from dynet_jax.trained import open_trained

    trained = open_trained(workdir)
    source, transform = trained.task.open_source("test"), trained.task.evaluation_transform()
    # Spread over the folder, which is sorted by class.
    chosen = np.linspace(0, len(source) - 1, min(CHECKED_IMAGES, len(source))).astype(int)
    images = np.stack([transform(source[index])["image"] for index in chosen])
    mean, std = trained.preprocessing.mean, trained.preprocessing.std
    expected = jax.jit(lambda v, x: trained.model.apply(v, normalize(x, mean, std), train=False))(
        trained.variables, images
    )
    (logits,) = onnxruntime.InferenceSession(file).run(["logits"], {"images": images})
    print(f"checked {file} with ONNX Runtime on {len(images)} validation images")
    return float(np.abs(logits - expected).max()), float(np.abs(expected).max())


def main() -> int:
    from dynet_jax.arguments import Parser, path_argument
    from dynet_jax.errors import UserError
    from dynet_jax.export.files import export_workdir
    from dynet_jax.predict import evaluate_workdir
    from dynet_jax.train.loop import train
    from dynet_jax.train.program_cache import use_compilation_cache
    from dynet_jax.workdir.echoes import report_failures_once

    parser = Parser(prog="finetune_and_export.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=path_argument, metavar="FOLDER")
    parser.add_argument("--workdir", type=path_argument, metavar="DIR", required=True)
    parser.add_argument("--init_from", type=path_argument, metavar="WORKDIR")
    parser.add_argument("--epochs", type=float, default=10.0)
    options = parser.parse_args()
    for package in ("onnx", "onnxruntime"):  # now, not after the training
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed; pip install onnx onnxruntime")
    use_compilation_cache()
    report_failures_once()
    config = configuration(options.folder, options.init_from, options.epochs)
    if options.init_from is None:
        print("no --init_from: the network begins with random weights, and needs many more images and epochs")
    code = train(config, options.workdir)
    if code:
        return code
    values = evaluate_workdir(options.workdir)
    print(f"top-1 of {values['examples']} validation images: {100 * values['top1']:.2f} %")
    file = export_workdir(options.workdir, None, format="onnx", overwrite=True)
    difference, largest = largest_difference(file, options.workdir)
    if not difference <= TOLERANCE * max(1, largest):
        raise UserError(f"{file} gives other logits than the network: they differ by {difference:.1e}")
    print(f"its logits, of up to {largest:.2f}, differ from the network's by at most {difference:.1e}")
    return 0


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # before the imports, which take seconds
        signal.signal(number, leave)
    from dynet_jax.arguments import report_mistakes

    code = report_mistakes("finetune_and_export.py", main)
    if code:
        sys.stdout.flush()
        os._exit(code)  # a compilation in the background would keep the process alive
