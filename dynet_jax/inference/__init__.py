"""Trained networks at work: normalisation folded into the kernels, one kernel for each image, on any size of image."""
