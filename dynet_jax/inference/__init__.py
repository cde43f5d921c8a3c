"""Trained networks at work: normalisation folded into the kernels, one kernel for each image, on any size of image."""

from dynet_jax.data.preprocessing import Preprocessing, ResizedPreprocessing
from dynet_jax.inference.model import InferenceModel, load, program_of
from dynet_jax.inference.predictions import Prediction

__all__ = [
    "InferenceModel",
    "Prediction",
    "Preprocessing",
    "ResizedPreprocessing",
    "load",
    "program_of",
]
