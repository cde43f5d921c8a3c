"""A cached source returns what the source returns, and reads each record once."""

import pickle
import sys
import threading
from collections import Counter

import numpy as np
import pytest

from dynet_jax.data import load_source
from dynet_jax.data.cache import CachedSource
from tests.data.test_corrupt import Files, assert_same, train


class Counting(Files):
    """A source that counts how often each record is read."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.reads = Counter()

    def __getitem__(self, index):
        self.reads[index] += 1
        return super().__getitem__(index)


def test_batches_are_the_same_and_records_read_once():
    source, junk = Counting(20, junk={7}), {7}
    cached = CachedSource(source)
    assert (len(cached), cached.class_names, cached.name_of(3)) == (20, source.class_names, "cat/3.png")
    assert_same(train(cached, 10, threads=1), train(Files(20, junk=junk), 10))
    assert source.reads == dict.fromkeys(range(20), 1)


def test_what_cannot_be_read_is_tried_again():
    source = Counting(4, unreadable={2})
    cached = CachedSource(source)
    for _ in range(3):
        with pytest.raises(PermissionError):
            cached[2]
    source.unreadable = ()
    assert cached[2] == source[2]


def test_arrays_are_not_kept_twice():
    cached = CachedSource(load_source("digits", "train"))
    assert cached[3].image is not cached[3].image


def test_threads_may_share_it():
    source = Files(200)
    cached = CachedSource(source)
    expected = [source[index] for index in range(200)]
    interval = sys.getswitchinterval()
    wrong = []

    def read(seed):
        for index in np.random.default_rng(seed).permutation(200).tolist():
            if cached[index] != expected[index]:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    try:
        sys.setswitchinterval(1e-6)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_what_is_kept_does_not_travel_to_another_process():
    cached = CachedSource(Files(200))
    before = len(pickle.dumps(cached))
    for index in range(200):
        cached[index]
    assert len(pickle.dumps(cached)) == before
    assert pickle.loads(pickle.dumps(cached))[5] == cached[5]
