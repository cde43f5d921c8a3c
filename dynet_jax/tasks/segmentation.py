"""Segmentation: one class per pixel."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import lax

from dynet_jax import data as datasets
from dynet_jax.data.corrupt import Damage
from dynet_jax.data.loading import read_record
from dynet_jax.data.map_inspection import inspect_maps
from dynet_jax.data.maps import MapsSource
from dynet_jax.data.preprocessing import ResizedPreprocessing
from dynet_jax.data.record import IGNORED, Arrays, Source
from dynet_jax.data.segmentation_augment import check_label_size, make_test_transform, make_training_transform
from dynet_jax.errors import UserError
from dynet_jax.ops.segmentation import (
    confusion_matrix,
    intersection_over_union,
    pixel_cross_entropy,
    resize_maps,
    sliding_windows,
    window_strides,
)
from dynet_jax.tasks.pictures import illustrate, make_segmenter
from dynet_jax.tasks.sums import means

PICTURES = 4  # number of test images shown after every evaluation


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The task of segmentation, see `Task`. Logits are resized to the crop in training, to the label in evaluation.

    A test image is resized to `data.eval_size`, so that all have the same shape; its predictions are scored at the
    size of its own label, every pixel once. mIoU is the mean over the classes that occur in labels or predictions.
    """

    config: ml_collections.ConfigDict
    score, train_score, score_title = "miou", "pixel_accuracy", "train: pixels, test: mIoU"

    @property
    def loss_title(self) -> str:
        return "loss (training: with the auxiliary head's)" if self.config.model.get("auxiliary") else "loss"

    init_size = 64

    def open_source(self, split: str) -> Source:
        source = datasets.load_source(self.config.data.name, split, self.config.data.data_dir, task="segmentation")
        if isinstance(source, MapsSource):
            source.contents, largest = inspect_maps(source, self.config.data.max_corrupt)
            if split != "train":
                check_label_size(largest, self.config.data.label_size, f"the largest label of {source.folder}")
        elif split != "train":
            record = read_record(source, 0)  # finds too large a label now, and not after hours of training
            if not isinstance(record, Damage):
                self.evaluation_transform()(record)
        return source

    def training_transform(self) -> Callable:
        data = self.config.data
        return make_training_transform(data.crop_size, data.scale, data.flip, data.color_distortion)

    def evaluation_transform(self) -> Callable:
        return make_test_transform(self.config.data.eval_size, self.config.data.label_size)

    def preprocessing(self) -> ResizedPreprocessing:
        data = self.config.data
        window = tuple(data.crop_size) if self.config.inference == "slide" else None
        return ResizedPreprocessing(tuple(data.eval_size), tuple(data.mean), tuple(data.std), window)

    def blank(self, *, training: bool) -> Arrays:
        data = self.config.data
        image, label = (data.crop_size, data.crop_size) if training else (data.eval_size, data.label_size)
        arrays: Arrays = {"image": np.zeros((*image, 3), np.uint8), "label": np.full(tuple(label), IGNORED, np.uint8)}
        return arrays if training else {**arrays, "size": np.asarray(label, np.int32)}

    def losses(self, outputs, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean over all pixels of the crop, where ignored ones contribute 0, as in mmsegmentation."""
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        logits, *auxiliary = (resize_maps(part, labels.shape[1:]) for part in parts)
        losses = pixel_cross_entropy(logits, labels, IGNORED).mean((1, 2))
        for part in auxiliary:
            losses += self.config.auxiliary_weight * pixel_cross_entropy(part, labels, IGNORED).mean((1, 2))
        counted = labels != IGNORED
        right = jnp.sum(counted & (jnp.argmax(logits, axis=-1) == labels), axis=(1, 2))
        return losses, {"pixel_accuracy": jnp.sum(right / jnp.maximum(1, jnp.sum(counted, axis=(1, 2))))}

    def evaluate(self, apply: Callable, images: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        def score(example):
            maps, label, size = example
            logits = resize_maps(maps[None], size, label.shape)[0]
            loss = jnp.sum(pixel_cross_entropy(logits, label, IGNORED)) / jnp.prod(size)
            predicted = jnp.argmax(logits, axis=-1)
            return loss, confusion_matrix(predicted, label, logits.shape[-1], IGNORED)

        # One image at a time, because at the label's size the memory only holds the logits of one.
        losses, confusion = lax.map(score, (self.logits(apply, images), batch["label"], batch["size"]))
        counts = batch["mask"] > 0
        return {
            "loss": jnp.sum(jnp.where(counts, losses, 0.0)),
            "confusion": jnp.sum(jnp.where(counts[:, None, None], confusion, 0), axis=0),
        }

    def logits(self, apply: Callable, images: jax.Array) -> jax.Array:
        """Returns logits of whole images at the network's resolution, or their mean over windows of the crop's size."""
        if self.config.inference == "whole":
            return apply(images)
        window = self.config.data.crop_size
        return sliding_windows(apply, images, window, window_strides(window))

    def illustrator(self, model: nn.Module, source: Source, *, mean, std) -> Callable[[dict], dict[str, np.ndarray]]:
        segment = make_segmenter(self.logits, self.config.data.eval_size, model, mean=mean, std=std)
        return lambda variables: illustrate(segment, variables, source, source.class_names, PICTURES)

    def metrics(self, sums: list[dict]) -> dict:
        """Returns 'miou', 'pixel_accuracy', 'loss', the 'confusion' matrix (rows: labels), and 'iou/0', ...

        Classes that occur nowhere have no IoU.
        """
        sums = jax.device_get(sums)
        confusion = total_confusion(sums)
        if not confusion.any():
            raise UserError("no pixel of the test set's labels counts; all are to be ignored")
        iou = intersection_over_union(confusion)
        others = means([{key: value for key, value in batch.items() if key != "confusion"} for batch in sums])
        accuracy = float(confusion.trace() / confusion.sum())
        values = {"miou": float(np.nanmean(iou)), "pixel_accuracy": accuracy, **others}
        values |= {"confusion": confusion.tolist()}
        return values | {f"iou/{index}": float(value) for index, value in enumerate(iou) if np.isfinite(value)}

    def progress(self, means: dict[str, float]) -> str:
        return f"pixels {100 * means['pixel_accuracy']:.1f}"

    def report(self, metrics: dict[str, float]) -> str:
        return f"mIoU {100 * metrics['miou']:.2f} % | pixels {100 * metrics['pixel_accuracy']:.2f} %"


def total_confusion(sums: list[dict]) -> np.ndarray:
    """Returns the confusion matrix of all batches, in 64 bits."""
    return np.sum([np.asarray(batch["confusion"], np.int64) for batch in sums], axis=0)
