"""The files of a run: configuration, class names, metrics, checkpoints."""
