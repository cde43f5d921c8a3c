"""Classification: one class per image."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dynet_jax import data as datasets
from dynet_jax.data.augment import make_test_transform, make_training_transform
from dynet_jax.data.preprocessing import Preprocessing
from dynet_jax.data.record import Arrays, Source
from dynet_jax.errors import UserError
from dynet_jax.tasks.losses import MixedLabels, count_correct, cross_entropy, mixed_cross_entropy
from dynet_jax.tasks.sums import means


@dataclasses.dataclass(frozen=True)
class Classification:
    """The task of classification, see `Task`."""

    config: ml_collections.ConfigDict
    score, train_score, score_title = "top1", "top1", "top-1 accuracy"

    @property
    def loss_title(self) -> str:
        mixed = " and mixed labels" if self.config.mixup or self.config.cutmix else ""
        return f"loss (training: with label smoothing{mixed})"

    @property
    def init_size(self) -> int:
        return self.config.data.image_size

    def open_source(self, split: str) -> Source:
        if split == "held_out":
            raise UserError("a classifier has one test set; evaluate without --held-out")
        return datasets.load_source(self.config.data.name, split, self.config.data.data_dir)

    def training_transform(self) -> Callable:
        data = self.config.data
        return make_training_transform(
            data.image_size,
            data.crop,
            data.flip,
            fast=data.fast_crop,
            trivial=data.trivial_augment,
            erasing=data.random_erasing,
            noise=self._draws_on_devices,
        )

    def evaluation_transform(self) -> Callable:
        return make_test_transform(self.config.data.image_size, self.config.data.resize_to)

    def preprocessing(self) -> Preprocessing:
        data = self.config.data
        return Preprocessing(data.image_size, data.resize_to, tuple(data.mean), tuple(data.std))

    def blank(self, *, training: bool) -> Arrays:
        size = self.config.data.image_size
        arrays: Arrays = {"image": np.zeros((size, size, 3), np.uint8), "label": np.int32(0)}
        return {**arrays, "noise": np.uint32(0)} if training and self._draws_on_devices else arrays

    @property
    def _draws_on_devices(self) -> bool:
        """Returns whether a training step needs a random number for each image."""
        config = self.config
        return any((config.mixup, config.cutmix, config.model.get("dropout"), config.model.get("stochastic_depth")))

    def losses(self, outputs: jax.Array, labels: jax.Array | MixedLabels) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the losses; of a mixed image the class with the larger share counts as the correct one."""
        if isinstance(labels, MixedLabels):
            losses = mixed_cross_entropy(outputs, labels, self.config.label_smoothing)
            labels = labels.largest
        else:
            losses = cross_entropy(outputs, labels, self.config.label_smoothing)
        return losses, {key: jnp.sum(value) for key, value in count_correct(outputs, labels).items()}

    def evaluate(self, apply: Callable, images: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        logits = apply(images)
        values = {"loss": cross_entropy(logits, batch["label"]), **count_correct(logits, batch["label"])}
        # where instead of a product, because an infinite loss of an empty image must not become NaN
        return {key: jnp.sum(jnp.where(batch["mask"] > 0, value, 0.0)) for key, value in values.items()}

    def metrics(self, sums: list[dict]) -> dict[str, float]:
        return means(sums)

    def illustrator(self, model: nn.Module, source: Source, *, mean, std) -> Callable:
        return lambda variables: {}

    def progress(self, means: dict[str, float]) -> str:
        return f"top-1 {100 * means['top1']:.1f}"

    def report(self, metrics: dict[str, float]) -> str:
        several = self.config.model.num_classes > 5  # of fewer classes all are among the best five
        top5 = f" | top-5 {100 * metrics['top5']:.2f} %" if several else ""
        return f"top-1 {100 * metrics['top1']:.2f} %{top5}"
