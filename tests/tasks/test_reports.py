"""What is said of an evaluation."""

import pytest

from dynet_jax.config.load import load_config
from dynet_jax.tasks.task import make_task


@pytest.mark.parametrize(("classes", "top5"), [(3, ""), (5, ""), (6, " | top-5 95.00 %")])
def test_top5_is_left_out_where_it_is_of_all_classes(classes, top5):
    config = load_config("dy_mobile:digits").unlock()
    config.model.num_classes = classes
    assert make_task(config).report({"top1": 0.5, "top5": 0.95}) == f"top-1 50.00 %{top5}"
