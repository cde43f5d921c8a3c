"""What an exported file says of itself: the names of its classes, and what has to be done to an image."""

import json

from dynet_jax.inference import InferenceModel


def metadata_of(model: InferenceModel) -> dict:
    """{'class_names': [...], 'image_size': 224, 'resize_to': 256, 'mean': [...], 'std': [...]}

    The shorter side of an image is resized to `resize_to`, and the central square of `image_size` cut out. mean and std
    are in the file's program: its images are uint8.
    """
    return {"class_names": model.class_names, **model.preprocessing._asdict()}


def encode_metadata(model: InferenceModel) -> bytes:
    """As JSON."""
    return json.dumps(metadata_of(model)).encode()
