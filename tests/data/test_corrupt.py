"""Images that cannot be used: replaced in training, masked out in evaluation, named once, and limited in number."""

import contextlib
import itertools

import numpy as np
import pytest

from dynet_jax.data import CorruptImages, evaluation_batches, load_source, training_batches
from dynet_jax.data.augment import make_test_transform, make_training_transform
from dynet_jax.data.record import Record
from dynet_jax.errors import UserError
from tests.data.images import blank_image, encoded

SIZE = 8
AUGMENT = make_training_transform(SIZE, "random_resized_crop", flip=True)
KEEP = make_training_transform(SIZE, "none", flip=False)


class Files:
    """`count` PNG files in memory, of which some are junk and some cannot be read. The label is the index."""

    def __init__(self, count: int, junk=(), unreadable=()):
        rng = np.random.default_rng(0)
        images = [encoded(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8), "PNG") for _ in range(count)]
        self.images = [b"junk" if index in junk else image for index, image in enumerate(images)]
        self.unreadable = unreadable
        self.class_names = [str(index) for index in range(count)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index in self.unreadable:
            raise PermissionError(13, "Permission denied")
        return Record(self.images[index], index, self.name_of(index))

    def name_of(self, index):
        return f"cat/{index}.png"


def train(source, count=6, transform=KEEP, **options):
    options = {"batch_size": 12, "seed": 0, "start_step": 0, "threads": 2, **options}
    return list(itertools.islice(training_batches(source, transform, **options), count))


def evaluate(source, **options):
    options = {"batch_size": 8, "threads": 2, **options}
    return list(evaluation_batches(source, make_test_transform(SIZE, SIZE), blank=blank_image(SIZE), **options))


def labels(batches) -> list[int]:
    return [int(label) for batch in batches for label in batch["label"]]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


@pytest.mark.parametrize("damage", ["junk", "unreadable"])
def test_the_next_image_takes_the_place_of_one_that_cannot_be_used(damage):
    whole, damaged = Files(20), Files(20, **{damage: {7, 8, 19}})
    successor = {7: 9, 8: 9, 19: 0}
    assert labels(train(damaged)) == [successor.get(label, label) for label in labels(train(whole))]


def test_the_replacement_is_augmented_by_the_same_draws():
    """The result is as if the file of the corrupt image were a copy of the next one."""
    damaged, mended = Files(20, junk={7}), Files(20)
    mended.images[7] = mended.images[8]
    for batch, expected in zip(train(damaged, transform=AUGMENT), train(mended, transform=AUGMENT)):
        np.testing.assert_array_equal(batch["image"], expected["image"])
        np.testing.assert_array_equal(batch["label"], np.where(expected["label"] == 7, 8, expected["label"]))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_replace_alike(hosts):
    source = Files(30, junk={3, 4, 17, 29}, unreadable={11})
    parts = [train(source, transform=AUGMENT, start_step=2, host=host, hosts=hosts) for host in range(hosts)]
    together = [{key: np.concatenate([part[key] for part in batch]) for key in batch[0]} for batch in zip(*parts)]
    assert_same(together, train(source, transform=AUGMENT, start_step=2))


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_an_evaluation_masks_them_out(hosts):
    source = Files(21, junk={0, 5, 20}, unreadable={13})
    parts = [evaluate(source, host=host, hosts=hosts) for host in range(hosts)]
    assert {len(part) for part in parts} == {3}
    together = [{key: np.concatenate([part[key] for part in batch]) for key in batch[0]} for batch in zip(*parts)]
    batch = {key: np.concatenate([batch[key] for batch in together]) for key in together[0]}
    counted = batch["mask"] == 1
    assert batch["label"][counted].tolist() == [n for n in range(21) if n not in (0, 5, 13, 20)]
    assert not batch["mask"][~counted].any()
    assert not batch["image"][~counted].any()


def test_each_is_reported_once_with_its_name(capsys):
    source, corrupt = Files(20, junk={7, 8}, unreadable={12}), CorruptImages()
    train(source, 5, corrupt=corrupt)  # three epochs
    training = capsys.readouterr().err
    assert sorted(line.partition(" (corrupt")[0] for line in training.splitlines()) == [
        "cat/12.png cannot be read: Permission denied; the next image replaces it",
        "cat/7.png is not an image that can be decoded (4 bytes); remove or replace it; the next image replaces it",
        "cat/8.png is not an image that can be decoded (4 bytes); remove or replace it; the next image replaces it",
    ]
    numbers = [line.partition(" (corrupt ")[2] for line in training.splitlines()]
    assert numbers == [f"image {n} of at most 100)" for n in (1, 2, 3)]
    evaluate(source, corrupt=corrupt)
    assert capsys.readouterr().err == ""
    evaluate(source, corrupt=CorruptImages())
    assert capsys.readouterr().err.count("it is left out of the evaluation") == 3


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("run", [train, evaluate])
def test_too_many_end_the_run_at_the_same_batch_always(run, threads, capsys):
    source = Files(24, junk={1, 5, 9, 22})
    batches = run(source, threads=threads)
    first_seen = []  # the batches, each with what it was made without
    for count in range(4):
        corrupt, taken = CorruptImages(limit=count), 0
        iterator = _iterate(run, source, corrupt, threads)
        with contextlib.suppress(UserError):
            for batch in iterator:
                np.testing.assert_array_equal(batch["image"], batches[taken]["image"])
                taken += 1
        first_seen.append((taken, sorted(corrupt.names)))
    assert first_seen == [_first_seen(run, source, count) for count in range(4)]
    assert len(run(source, threads=threads, corrupt=CorruptImages(limit=4))) == len(batches)


def _iterate(run, source, corrupt, threads):
    options = {"threads": threads, "corrupt": corrupt}
    if run is evaluate:
        return evaluation_batches(
            source, make_test_transform(SIZE, SIZE), blank=blank_image(SIZE), batch_size=8, **options
        )
    return training_batches(source, KEEP, batch_size=12, seed=0, start_step=0, **options)


def _first_seen(run, source, limit):
    """Goes through the batches of undamaged files until there are more than `limit`, as an independent count."""
    whole = Files(len(source))
    met = []
    for number, batch in enumerate(run(whole)):
        for label in batch["label"].tolist():
            for index in itertools.takewhile(lambda i: source.images[i] == b"junk", itertools.count(label)):
                if index not in met:
                    met.append(index)
                if len(met) > limit:
                    return number, sorted(f"cat/{index}.png" for index in met)
    raise AssertionError("there are not as many")


def test_a_source_without_a_usable_image_is_refused():
    with pytest.raises(UserError, match="none of the images can be used; for example, cat/"):
        train(Files(5, junk=range(5)))
    with pytest.raises(UserError, match=r"cannot be read: .*corrupt images: 11, more than .*=10"):
        train(Files(50, unreadable=range(50)), corrupt=CorruptImages(limit=10))


def test_a_mistake_in_the_code_is_no_corrupt_image():
    def transform(record, rng):
        raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        train(Files(20), transform=transform)


def test_a_file_that_goes_away_or_is_in_disguise(tmp_path, capsys):
    for number in range(6):
        path = tmp_path / f"train/cat/{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(np.full((9, 9, 3), 40 * number, np.uint8), "PNG" if number == 3 else "JPEG"))
    source = load_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train/cat/4.JPEG").unlink()
    (tmp_path / "train/cat/1.JPEG").write_bytes(b"")
    (batch,) = train(source, 1, batch_size=6)
    assert sorted(batch["image"][:, 0, 0, 0] // 40 * 40) == [0, 80, 80, 120, 200, 200]
    errors = sorted(capsys.readouterr().err.splitlines())
    assert errors[0].startswith(f"{tmp_path}/train/cat/1.JPEG is not an image that can be decoded (0 bytes)")
    assert errors[1].startswith(f"{tmp_path}/train/cat/4.JPEG cannot be read: No such file or directory")
    assert len(errors) == 2


def test_a_directory_in_place_of_a_file(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        path = tmp_path / "train/cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(np.full((9, 9, 3), 70, np.uint8), "PNG"))
    source = load_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train/cat/a.png").unlink()
    (tmp_path / "train/cat/a.png").mkdir()
    train(source, 1, batch_size=4)
    assert "a.png cannot be read: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [0, 2])
def test_what_ends_the_run_is_one_line(limit):
    with pytest.raises(UserError) as caught:
        train(Files(20, junk={3, 9, 14}), corrupt=CorruptImages(limit))
    last = str(caught.value).partition(" ")[0]
    assert str(caught.value) == (
        f"{last} is not an image that can be decoded (4 bytes); remove or replace it; "
        f"corrupt images: {limit + 1}, more than --config.data.max_corrupt={limit}"
    )
    assert last in {"cat/3.png", "cat/9.png", "cat/14.png"}
