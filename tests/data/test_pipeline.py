"""Batches are a pure function of seed and step, independent of hosts; an evaluation counts every example once."""

import itertools
import time
from collections import Counter

import numpy as np
import pytest

from dynet_jax.data import evaluation_batches, pipeline, training_batches
from dynet_jax.data.augment import make_test_transform, make_training_transform
from dynet_jax.data.record import ArraySource
from tests.data.images import blank_image

SIZE = 8


class Numbered(ArraySource):
    """Images of noise; the label is the index."""

    def __init__(self, count: int):
        images = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
        super().__init__(images, np.arange(count), [str(index) for index in range(count)], "numbered")


AUGMENT = make_training_transform(SIZE, "random_shift", flip=True)


def train(source, count, **options):
    """The first `count` training batches."""
    options = {"batch_size": 12, "seed": 0, "start_step": 0, "threads": 2, **options}
    return list(itertools.islice(training_batches(source, AUGMENT, **options), count))


def test(source, **options):
    return list(
        evaluation_batches(source, make_test_transform(SIZE, SIZE), blank=blank_image(SIZE), threads=2, **options)
    )


test.__test__ = False


def labels(batches) -> list[int]:
    return [int(label) for batch in batches for label in batch["label"]]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected):
        assert batch.keys() == other.keys()
        for key in batch:
            assert batch[key].dtype == other[key].dtype
            np.testing.assert_array_equal(batch[key], other[key])


def test_training_batch():
    (batch,) = train(Numbered(50), 1)
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "image": ("uint8", (12, SIZE, SIZE, 3)),
        "label": ("int32", (12,)),
    }


@pytest.mark.parametrize("start", [1, 4, 5, 11])
def test_starting_at_any_step_gives_the_same_batches(start):
    source = Numbered(50)  # an epoch ends within batch 4
    assert_same(train(source, 3, start_step=start), train(source, 14)[start : start + 3])


def test_the_number_of_threads_makes_no_difference():
    assert_same(train(Numbered(50), 6, threads=1), train(Numbered(50), 6, threads=8))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batch_of_one_host(hosts):
    source = Numbered(50)
    parts = [train(source, 6, start_step=2, host=host, hosts=hosts) for host in range(hosts)]
    together = [{key: np.concatenate([part[key] for part in batch]) for key in batch[0]} for batch in zip(*parts)]
    assert_same(together, train(source, 6, start_step=2))


def test_each_epoch_visits_every_record_once_in_an_order_of_its_own():
    order = labels(train(Numbered(50), 13))  # 156 records: three epochs and 6 records
    epochs = [order[start : start + 50] for start in (0, 50, 100)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert len({tuple(epoch) for epoch in [*epochs, range(50)]}) == 4


def test_a_batch_may_be_larger_than_the_source():
    assert Counter(labels(train(Numbered(5), 1, batch_size=15))) == dict.fromkeys(range(5), 3)


def test_the_seed_decides_order_and_augmentation():
    source = Numbered(50)
    one, other = train(source, 4, seed=0), train(source, 4, seed=1)
    assert_same(train(source, 4, seed=0), one)
    assert labels(one) != labels(other)
    images = [
        {int(n): image.tobytes() for b in batches for n, image in zip(b["label"], b["image"])}
        for batches in (one, other)
    ]
    both = images[0].keys() & images[1].keys()
    assert sum(images[0][n] != images[1][n] for n in both) > len(both) / 2  # 50 ways of shifting and flipping


def test_an_image_is_augmented_in_another_way_every_epoch():
    seen = {}
    for batch in train(Numbered(5), 10, batch_size=5):
        for n, image in zip(batch["label"], batch["image"]):
            seen.setdefault(int(n), []).append(image.tobytes())
    assert all(len(images) == 10 and len(set(images)) > 4 for images in seen.values())


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 23])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_evaluation_counts_every_example_once(count, hosts):
    source = Numbered(count)
    parts = [test(source, batch_size=8, host=host, hosts=hosts) for host in range(hosts)]
    assert {len(part) for part in parts} == {-(-count // 8)}  # every host takes the same number of steps
    order, images = [], []
    for batch in zip(*parts):
        for part in batch:
            assert part["image"].shape == (8 // hosts, SIZE, SIZE, 3)
            assert part["mask"].dtype == np.float32
            real = part["mask"] == 1
            assert (part["mask"][~real] == 0).all()
            assert not part["image"][~real].any()
            order += part["label"][real].tolist()
            images += list(part["image"][real])
    assert order == list(range(count))
    np.testing.assert_array_equal(images, source.images)


@pytest.mark.parametrize("batch_size", [8, 64])
def test_reads_a_few_batches_ahead_and_no_more(batch_size):
    """The memory of a large run is determined by what is read ahead."""

    class Counting(ArraySource):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    source = Counting(np.zeros((1000, 4, 4), np.uint8), np.zeros(1000, int), ["0"], "zeros")
    transform = make_training_transform(4, "none", flip=False)
    batches = training_batches(source, transform, batch_size=batch_size, seed=0, start_step=0, threads=2)
    for taken in range(1, 4):
        next(batches)
        time.sleep(0.3)
        assert taken * batch_size <= Counting.reads <= (taken + 4) * batch_size


@pytest.mark.parametrize(("workers", "expected"), [(0, 5), (2, 3), (9, 1)])
def test_as_many_threads_as_cores(monkeypatch, workers, expected):
    """The cores are divided among worker processes, each of which has at least one."""
    monkeypatch.setattr(pipeline, "cores", lambda: list(range(5)))
    assert pipeline.threads_for(workers) == expected
