"""Exact metrics of a network on a test set, on any number of devices and hosts."""
