"""Training curves of runs of any length, in a script, a notebook and a thread."""

import threading

import numpy as np
import pytest
from matplotlib import image, pyplot

from dynet_jax.analysis.plots import COLORS, plot_training_curves
from dynet_jax.config.load import load_config
from dynet_jax.tasks.task import make_task

TASK = make_task(load_config("dy_mobile:digits"))


def rows(steps):
    train = [{"step": s, "loss": 2.0 - s / 100, "top1": s / 100, "learning_rate": 0.1 * s} for s in range(1, steps + 1)]
    return {"train": train, "test": [{"step": steps, "loss": 1.5, "top1": 0.5}] if steps else []}


def painted(panel: np.ndarray, color: str) -> int:
    """Returns how many pixels of a panel have a colour."""
    rgb = np.asarray([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(panel[..., :3] - rgb).max(-1) < 0.02).sum())


@pytest.mark.parametrize("steps", [0, 1, 2, 30])
def test_every_panel_shows_every_row(steps, tmp_path):
    plot_training_curves(rows(steps), TASK, tmp_path / "curves.png", "title")
    picture = image.imread(tmp_path / "curves.png")
    panels = np.array_split(picture[60:-60], 3, axis=1)
    without = [painted(panel, COLORS["train"]) for panel in np.array_split(empty(tmp_path)[60:-60], 3, axis=1)]
    drawn = [painted(panel, COLORS["train"]) - none for panel, none in zip(panels, without)]
    assert all(count > 8 for count in drawn) == (steps > 0), drawn


def empty(folder) -> np.ndarray:
    """The figure of no rows: its legend alone has colours."""
    plot_training_curves(rows(0), TASK, folder / "empty.png", "title")
    return image.imread(folder / "empty.png")


def test_a_figure_of_a_notebook_is_left_alone(tmp_path):
    """Curves that a thread draws change neither pyplot's current figure nor its backend."""
    figure, backend = pyplot.figure(), pyplot.get_backend()
    thread = threading.Thread(target=plot_training_curves, args=(rows(2), TASK, tmp_path / "curves.png", "title"))
    thread.start()
    thread.join()
    assert (tmp_path / "curves.png").is_file()
    assert (pyplot.gcf(), pyplot.get_fignums(), pyplot.get_backend()) == (figure, [figure.number], backend)
    pyplot.close(figure)
