"""Images of some of the classes, or in another order, get the class numbers of a trained network."""

import pickle

import numpy as np
import pytest
from PIL import Image

from dynet_jax.data import load_source
from dynet_jax.data.contents import describe
from dynet_jax.data.matching import matched
from dynet_jax.data.record import IGNORED, ArraySource
from dynet_jax.errors import UserError
from tests.data.maps import CLASSES, write_maps
from tests.data.test_class_folders import write

TRAINED = ["fox", "cat", "dog"]  # as a dataset of another kind may have them


def elsewhere(root, *classes):
    for name in classes:
        for number in range(2):
            write(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize("layout", ["val", "test", "."])
def test_a_folder_without_training_images(tmp_path, layout):
    elsewhere(tmp_path / layout, "cat", "fox")
    source = load_source(f"folder:{tmp_path}", "test")
    ours = matched(source, TRAINED, "D", "W")
    assert [record.label for record in map(ours.__getitem__, range(4))] == [1, 1, 0, 0]
    assert [ours.name_of(index) for index in range(4)] == [source.name_of(index) for index in range(4)]
    assert ours.class_names == TRAINED
    assert describe({"test": ours})[1].endswith("has no images of dog")
    assert pickle.loads(pickle.dumps(ours))[2].label == 0
    with pytest.raises(UserError, match=r"there is no .*/train"):
        load_source(f"folder:{tmp_path}", "train")


def test_a_val_folder_beside_a_train_folder_may_be_named_itself(tmp_path):
    elsewhere(tmp_path / "train", "cat", "dog")
    elsewhere(tmp_path / "val", "dog")
    assert load_source(f"folder:{tmp_path}/val", "test").class_names == ["dog"]


def test_other_classes_are_refused(tmp_path):
    source = load_source(f"folder:{elsewhere(tmp_path, 'cat', 'Fox', 'wolf')}", "test")
    with pytest.raises(UserError, match="D has classes that W was not trained on: Fox, wolf; did you mean fox"):
        matched(source, TRAINED, "D", "W")


def test_a_class_without_test_images_need_not_be_known(tmp_path):
    elsewhere(tmp_path / "train", "cat", "wolf")
    elsewhere(tmp_path / "val", "cat")
    ours = matched(load_source(f"folder:{tmp_path}", "test"), TRAINED, "D", "W")
    assert [ours[0].label, len(ours)] == [1, 2]


def test_accents_are_the_same_however_they_are_written(tmp_path):
    elsewhere(tmp_path, "cafe\u0301", "cat")
    source = load_source(f"folder:{tmp_path}", "test")
    assert matched(source, ["café", "cat"], "D", "W")[0].label == 0


def test_a_name_that_the_network_has_twice():
    source = ArraySource(np.zeros((1, 2, 2, 3), np.uint8), np.asarray([0]), ["crane"], "birds")
    with pytest.raises(UserError, match="W has several classes called crane"):
        matched(source, ["crane", "heron", "crane"], "birds", "W")


def test_maps_of_classes(tmp_path):
    write_maps(tmp_path, {"val": [(4, 6)]})
    Image.fromarray(np.asarray([[0, 1, 2, 255]], np.uint8)).save(tmp_path / "valannot/000.png")
    source = load_source(f"maps:{tmp_path}", "test", task="segmentation")
    assert matched(source, CLASSES, "D", "W") is source
    ours = matched(source, ["forest", *CLASSES[::-1]], "D", "W")
    assert ours[0].label.decode().tolist() == [[3, 2, 1, IGNORED]]
