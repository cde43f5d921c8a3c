"""The effect of smaller banks and of bfloat16 or int8 arithmetic: accuracy on the test images, and agreement.

python -m benchmarks.inference_accuracy WORKDIR
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks.arguments import make_parser
from dynet_jax.analysis.table import Table
from dynet_jax.data import evaluation_batches
from dynet_jax.errors import UserError
from dynet_jax.inference import load
from dynet_jax.tasks.task import make_task
from dynet_jax.train.setup import open_data
from dynet_jax.workdir.files import read_config

VARIANTS = (  # runtime, storage of the banks, arithmetic; the first is what the others are compared with
    ("jax", "float32", "float32"),
    ("jax", "bfloat16", "float32"),
    ("jax", "int8", "float32"),
    ("native", "float32", "float32"),
    ("native", "bfloat16", "float32"),
    ("native", "int8", "float32"),
    ("native", "bfloat16", "bfloat16"),
    ("native", "int8", "bfloat16"),
    ("native", "float32", "int8"),
    ("native", "int8", "int8"),
)


def logits_of(workdir: Path, images: np.ndarray, runtime: str, storage: str, arithmetic: str) -> np.ndarray:
    """Returns logits, [images, classes]."""
    model = load(workdir, runtime=runtime, storage=storage, arithmetic=arithmetic)
    return np.concatenate([model.logits(images[i : i + 64]) for i in range(0, len(images), 64)])


def table(workdir: Path, images: np.ndarray, labels: np.ndarray) -> Table:
    rows, first = [], None
    for variant in VARIANTS:
        print(f"{', '.join(variant)} ...", file=sys.stderr, flush=True)
        logits = logits_of(workdir, images, *variant)
        first = logits if first is None else first
        best = logits.argmax(axis=-1)
        top1, agreement = 100 * np.mean(best == labels), 100 * np.mean(best == first.argmax(axis=-1))
        difference = np.abs(logits - first).max() / np.abs(first).max()
        rows.append((*variant, float(top1), float(agreement), f"{difference:.1e}"))
    return Table(("runtime", "banks", "arithmetic", "top-1 %", "same class %", "largest difference of a logit"), rows)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("inference_accuracy", __doc__)
    parser.add_argument("workdir", type=Path)
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.workdir)
        task, source = make_task(config), open_data(config, "test")
        blank = task.blank(training=False)
        batches = list(evaluation_batches(source, task.evaluation_transform(), blank=blank, batch_size=256))
    except UserError as error:
        parser.error(str(error))
    images, labels, mask = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "label", "mask"))
    images, labels = images[mask > 0], labels[mask > 0]
    print(f"{config.model.name} on {len(images)} test images of {config.data.name}, {config.data.image_size} px\n")
    print(table(options.workdir, images, labels).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
