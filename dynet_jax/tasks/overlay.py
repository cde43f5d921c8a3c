"""Class maps as pictures: in colours, over the image, with a legend."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

# Cityscapes' colours, for its classes and for those with another name in other datasets.
COLORS = {
    **{"road": (128, 64, 128), "sidewalk": (244, 35, 232), "building": (70, 70, 70), "wall": (102, 102, 156)},
    **{"fence": (190, 153, 153), "pole": (153, 153, 153), "traffic light": (250, 170, 30)},
    **{"traffic sign": (220, 220, 0), "vegetation": (107, 142, 35), "terrain": (152, 251, 152), "sky": (70, 130, 180)},
    **{"person": (220, 20, 60), "rider": (255, 0, 0), "car": (0, 0, 142), "truck": (0, 0, 70), "bus": (0, 60, 100)},
    **{"train": (0, 80, 100), "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32)},
}
ALIASES = {"pavement": "sidewalk", "tree": "vegetation", "sign": "traffic sign", "pedestrian": "person"}
ALIASES |= {"bicyclist": "bicycle"}
LINE, SWATCH = 18, 12  # pixels


def palette(class_names: Sequence[str]) -> np.ndarray:
    """Returns a colour for each class, [256, 3] uint8 RGB; indices beyond the last class are black."""
    colors = np.zeros((256, 3), np.uint8)
    for index, name in enumerate(class_names):
        hue = index * 0.618034 % 1  # makes consecutive hues very different
        other = [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (index % 2), 0.95)]
        colors[index] = COLORS.get(ALIASES.get(name, name), other)
    return colors


def overlay(image: np.ndarray, labels: np.ndarray, class_names: Sequence[str], opacity: float = 0.6) -> np.ndarray:
    """Returns the image [height, width, 3] uint8 coloured by labels [height, width], with a legend.

    The legend, at the right, lists the classes that cover at least one pixel in 500, the largest first. Ignored pixels
    keep their colour.
    """
    colors = palette(class_names)
    mixed = cv2.addWeighted(image, 1 - opacity, colors[labels], opacity, 0)
    mixed = np.where((labels < len(class_names))[..., None], mixed, image)
    counts = np.bincount(labels.ravel(), minlength=256)[: len(class_names)]
    shown = [index for index in np.argsort(-counts, kind="stable") if counts[index] * 500 >= labels.size]
    height = max(len(mixed), LINE * len(shown) + 8)
    legend = np.full((height, 130, 3), 255, np.uint8)
    for line, index in enumerate(shown):
        top = 4 + line * LINE
        legend[top : top + SWATCH, 6 : 6 + SWATCH] = colors[index]
        text = f"{class_names[index]} {100 * counts[index] / labels.size:.0f}%"
        cv2.putText(legend, text, (24, top + SWATCH - 1), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    picture = np.full((height, mixed.shape[1], 3), 255, np.uint8)
    picture[: len(mixed)] = mixed
    return np.hstack([picture, legend])
