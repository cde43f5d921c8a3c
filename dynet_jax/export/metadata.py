"""What an exported file says of itself: the names of its classes, and what has to be done to an image."""

from collections.abc import Sequence
from typing import Any

from dynet_jax.inference import Preprocessing


def metadata_of(class_names: Sequence[str], preprocessing: Preprocessing) -> dict[str, Any]:
    """{'class_names': [...], 'preprocessing': {'resize_to': 256, 'image_size': 224, ...}}

    The shorter side of an image is resized to `resize_to`, and the central square of `image_size` cut out. mean and std
    are there to be read: normalisation is part of the exported program, whose images are uint8.
    """
    return {
        "class_names": list(class_names),
        "preprocessing": {
            "resize_to": preprocessing.resize_to,
            "image_size": preprocessing.image_size,
            "interpolation": "area where an image shrinks, bilinear where it grows",
            "mean": [float(value) for value in preprocessing.mean],
            "std": [float(value) for value in preprocessing.std],
        },
    }
