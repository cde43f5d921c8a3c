"""Training: `python train.py --config=...` is `dynet_jax.train.loop.train`."""
