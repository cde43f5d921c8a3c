"""The outputs of a classifier that are kept for other classes, and the message about it."""

import time

import pytest

from dynet_jax.train.kept_outputs import match_classes

PETS = ["cat", "dog", "fox"]


@pytest.mark.parametrize(
    ("before", "now", "rows", "said"),
    [
        (PETS, PETS, [0, 1, 2], ""),
        (PETS, ["fox", "cat", "dog"], [2, 0, 1], "its classes by name: 3 of 3 were known, fox, cat, dog"),
        (PETS, ["dog", "newt", "owl"], [1, None, None], "1 of 3 was known, dog; new: newt, owl"),
        (PETS, ["dog", "cat"], [1, 0], "2 of 2 were known, dog, cat"),
        (PETS, ["a", *PETS], [None, 0, 1, 2], "3 of 4 were known, cat, dog, fox; new: a"),
        (PETS, ["newt", "owl", "yak"], [None] * 3, "no class is the same: newt, owl, yak; before: cat, dog, fox"),
        ([], PETS, [0, 1, 2], "the names of the classes are not known: each output keeps its weights"),
        (PETS, [], [0, 1, 2], "the names of the classes are not known"),
        (["cat", "cat", "dog"], ["dog", "cat", "owl"], [2, None, None], "new: cat, owl"),
        (["cafe\u0301", "dog"], ["dog", "caf\xe9"], [1, 0], "2 of 2 were known"),
        (["cafe\u0301", "dog"], ["caf\xe9", "dog"], [0, 1], ""),
        (["Cat", "dog", "fox"], PETS, [None, 1, 2], "new: cat"),
    ],
)
def test_classes_go_by_name(before, now, rows, said):
    taken = match_classes(before, 3, now, max(len(now), 3) if not now else len(now))
    assert (taken.rows, said in taken.said, bool(taken.said)) == (rows, True, bool(said))


def test_outputs_without_a_name():
    assert match_classes(PETS, 10, PETS, 10) == (list(range(10)), "")
    assert match_classes(PETS, 10, PETS, 3).rows == [0, 1, 2]
    assert match_classes(PETS, 3, PETS, 4).rows == [0, 1, 2, None]
    assert match_classes(PETS, 10, ["dog"], 2).rows == [1, None]
    taken = match_classes([], 10, PETS, 3)
    assert taken.all_new
    assert taken.said == "the names of the classes are not known, and there are 3, not 10"


def test_a_thousand_names_stay_a_line():
    names = [f"n{i}" for i in range(1000)]
    assert match_classes(names, 1000, names[::-1], 1000).said.endswith("n999, n998, n997, n996, n995 and 995 more")


def test_names_are_counted_once():
    """ImageNet-21k's number of names: to count each by itself takes twenty seconds."""
    names, begun = [f"n{i}" for i in range(21_841)], time.monotonic()
    assert match_classes(names, len(names), names[::-1], len(names)).rows[0] == len(names) - 1
    assert time.monotonic() - begun < 2
