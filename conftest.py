"""Every test runs on the CPU with 8 virtual devices; set before JAX starts."""

import os
from pathlib import Path
from unittest import mock

import jaxtyping
import pytest

from tests import shape_checks
from tests.quick_compilation import flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags(devices=8)}"
# Many tests compile the same step; the processes they start find it here too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
shape_checks.install("dynet_jax.ops", "dynet_jax.layers", "dynet_jax.tasks.losses", "dynet_jax.inference")


@pytest.fixture(autouse=True)
def no_model_stays():
    """Removes models that a test registers, because other tests list all models."""
    from dynet_jax.models import registry  # JAX reads the settings above when it is imported

    with mock.patch.dict(registry._MODELS):
        yield


@pytest.fixture
def without_shape_checks(monkeypatch):
    """Disables the checks of annotated shapes, for tests of messages to users."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
