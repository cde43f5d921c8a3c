"""Kernels written for one kind of hardware, where XLA's own forms move many times the bytes that they have to."""
