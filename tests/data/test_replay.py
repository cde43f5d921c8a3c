"""The records of a training batch, and the batch again, against what the pipeline delivers."""

import itertools

import numpy as np
import pytest

from dynet_jax.data import training_batch, training_batches, training_examples
from dynet_jax.data.augment import make_training_transform
from dynet_jax.errors import UserError
from tests.data.test_corrupt import SIZE, Files

AUGMENT = make_training_transform(SIZE, "random_resized_crop", flip=True)


def delivered(source, step, seed=3):
    (batch,) = itertools.islice(
        training_batches(source, AUGMENT, batch_size=12, seed=seed, start_step=step, threads=2), 1
    )
    return batch


@pytest.mark.parametrize("step", [0, 1, 4, 25])
def test_examples_are_those_of_the_batch(step):
    source = Files(50)  # the label is the index; an epoch ends within batch 4
    indices = training_examples(source, batch_size=12, seed=3, step=step)
    assert indices == delivered(source, step)["label"].tolist()
    assert all(type(index) is int for index in indices)


def test_examples_are_named_without_reading_them():
    source = Files(50, unreadable=range(50))
    indices = training_examples(source, batch_size=12, seed=0, step=7)
    assert [source.name_of(index) for index in indices] == [f"cat/{index}.png" for index in indices]


def test_the_whole_batch_of_all_hosts_again():
    source = Files(50, junk={3, 4, 30}, unreadable={11})
    for step in (0, 4, 9):
        batch, examples = training_batch(source, AUGMENT, batch_size=12, seed=3, step=step)
        expected = delivered(source, step)
        assert batch.keys() == expected.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], expected[key])
        assert [example.index for example in examples] == expected["label"].tolist()  # what took a corrupt one's place
        assert [example.name for example in examples] == [f"cat/{n}.png" for n in expected["label"]]
        drawn = training_examples(source, batch_size=12, seed=3, step=step)
        replaced = {3: 5, 4: 5, 11: 12, 30: 31}
        assert [replaced.get(index, index) for index in drawn] == expected["label"].tolist()


def test_a_batch_without_usable_images():
    with pytest.raises(UserError, match="none of the images can be used"):
        training_batch(Files(5, junk=range(5)), AUGMENT, batch_size=4, seed=0, step=0)
