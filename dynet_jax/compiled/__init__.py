"""What a compiled step says of itself, and how long it would take: what is the same for TPUs and GPUs."""
