"""What a TPU slice would do with a configuration, from the TPU's compiler, on a machine without a TPU."""
