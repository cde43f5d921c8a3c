"""Trained networks at work: normalisation folded into the kernels, one kernel for each image, on any size of image."""

from dynet_jax.inference.model import InferenceModel, Preprocessing, load, program_of

__all__ = ["InferenceModel", "Preprocessing", "load", "program_of"]
