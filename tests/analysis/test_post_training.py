"""Static networks in int8 in other runtimes: which are measured, on which images, and what they compute."""

import numpy as np
import pytest
from PIL import Image

from dynet_jax.analysis import latency, post_training
from dynet_jax.analysis.latency import LatencyPlan
from dynet_jax.analysis.runtimes import RUNTIMES, random_images
from dynet_jax.errors import UserError
from tests.analysis.test_latency import cell


def test_int8_of_other_runtimes_is_for_static_networks(monkeypatch):
    """Their quantisers find nothing to quantise in a dynamic network; the engine rounds what it fuses."""
    runtimes = [("native", "int8"), ("openvino", "int8"), ("onnxruntime", "int8")]
    (group,) = LatencyPlan(["dy_mobile"], runtimes, [1], [64], calibration="photographs").groups()
    assert [(c.network, c.runtime) for c in group] == [
        ("dy_mobile", "native"),
        *(("mobilenet_v2", runtime) for runtime, _ in runtimes),
    ]
    assert {c.calibration for c in group} == {"photographs"}
    monkeypatch.setattr(latency, "with_base", lambda network: [network])
    assert LatencyPlan(["dy_mobile"], runtimes[1:], [1], [64]).groups() == []


def test_images_for_calibration(tmp_path):
    """They come from the whole folder, in full batches, sized as for an evaluation; without a folder they are noise."""
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        Image.new("RGB", (40, 30), (80 * number, 0, 0)).save(tmp_path / str(number) / "a.png")
    batches = post_training.calibration_images(cell(size=24, batch=2)._replace(calibration=str(tmp_path)))
    assert [batch.shape for batch in batches] == [(2, 24, 24, 3)] * 2
    assert {int(image[0, 0, 0]) for batch in batches for image in batch} == {0, 80, 160}
    (tmp_path / "0/b.png").write_bytes(b"nothing that can be decoded")
    assert len(post_training.calibration_images(cell(size=24)._replace(calibration=str(tmp_path)))) == 3
    post_training.check_calibration(str(tmp_path))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "0/b.png").rename(tmp_path / "damaged/b.png")
    with pytest.raises(UserError, match=r"none of the images in --calibrate=.*damaged can be decoded"):
        post_training.check_calibration(str(tmp_path / "damaged"))
    noise = post_training.calibration_images(cell(size=24, batch=3))
    assert all(batch.shape == (3, 24, 24, 3) and batch.std() > 60 for batch in noise)
    for folder, wrong in ((tmp_path / "none", "is not a folder"), (tmp_path / "0/a.png", "is not a folder")):
        with pytest.raises(UserError, match=wrong):
            post_training.check_calibration(str(folder))


@pytest.mark.slow
def test_static_networks_in_int8():
    """The results of installed runtimes are close to float32 but not equal, so they are quantised."""
    for runtime in ("onnxruntime", "openvino", "native"):
        if RUNTIMES.find(runtime).missing() is None and "int8" in RUNTIMES.find(runtime).offered:
            one = cell("mobilenet_v2", runtime, size=32)._replace(width=0.25)
            exact, rounded = (
                RUNTIMES.find(runtime).prepare(one._replace(numbers=numbers))(random_images(one))
                for numbers in ("float32", "int8")
            )
            assert 1e-3 < np.abs(exact - rounded).max() / np.abs(exact).max() < 0.5
