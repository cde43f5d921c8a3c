"""A machine of its own for every test."""

import pytest

from tests.launch.machine import Machine


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)
