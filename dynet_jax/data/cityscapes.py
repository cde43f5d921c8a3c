"""Cityscapes, as prepared by TFDS."""

import numpy as np

from dynet_jax.data.maps import UNKNOWN, EncodedMap
from dynet_jax.data.record import IGNORED, Record
from dynet_jax.data.source import register_dataset
from dynet_jax.data.tfds_source import open_tfds, read_tfds
from dynet_jax.errors import UserError

# Cityscapes' ids of the 19 classes that are trained and evaluated, in their order; all others are ignored.
CITYSCAPES = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"},
    **{20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"},
    **{27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
}
CITYSCAPES_IDS = 34


class CityscapesSource:
    """The finely annotated images, with the 19 classes."""

    def __init__(self, split: str, data_dir: str | None):
        if split == "held_out":
            raise UserError("the labels of Cityscapes' test images are not public; evaluate without --held-out")
        names = {"train": "train", "test": "validation"}
        self.class_names, self.name = list(CITYSCAPES.values()), f"cityscapes/{names[split]}"
        self._records = open_tfds("cityscapes", names[split], data_dir, encoded=("image_left", "segmentation_label"))[1]
        self._data_dir = data_dir
        self._classes = np.full(256, UNKNOWN, np.uint8)
        self._classes[:CITYSCAPES_IDS] = IGNORED
        self._classes[list(CITYSCAPES)] = np.arange(len(CITYSCAPES))
        self._classes[IGNORED] = IGNORED  # the licence plate, whose id is -1

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = read_tfds(self._records, index, self._data_dir)
        name = f"{self.name}/{record['image_id'].decode()}"
        return Record(record["image_left"], EncodedMap(record["segmentation_label"], self._classes, name), name)

    def name_of(self, index: int) -> str:
        return f"{self.name}/{index}"


@register_dataset("cityscapes", task="segmentation", from_bucket=True)
def _open(split: str, data_dir: str | None) -> CityscapesSource:
    return CityscapesSource(split, data_dir)
