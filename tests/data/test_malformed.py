"""A thousand malformed JPEG files through the pipeline: no crash, no hang, the same every time, and all counted."""

import numpy as np
import pytest

from dynet_jax.data import CorruptImages
from dynet_jax.data.decode import decode
from dynet_jax.errors import UserError
from tests.data.images import JPEG_END, encoded, textured
from tests.data.test_corrupt import AUGMENT, Files, assert_same, evaluate, train


def malformed(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns the file with a few bytes changed, truncated, or with a part zeroed, removed or duplicated."""
    kind, length = rng.integers(5), len(content)
    start, stop = sorted(rng.integers(0, length, 2).tolist())
    if kind == 0:
        changed = bytearray(content)
        for position in rng.integers(0, length, rng.integers(1, 20)):
            changed[position] = rng.integers(256)
        return bytes(changed)
    pieces = {1: (content[:stop],), 2: (content[:start], bytes(stop - start), content[stop:])}
    pieces |= {3: (content[:start], content[stop:]), 4: (content[:stop], content[start:])}
    return b"".join(pieces[int(kind)])


@pytest.fixture(scope="module")
def thousand():
    """A thousand malformed JPEG files, of four sizes and kinds, and a hundred intact ones among them."""
    whole = [
        encoded(textured(48, 64), "JPEG"),
        encoded(textured(90, 33, seed=1), "JPEG", progressive=True),
        encoded(textured(20, 20, seed=2)[..., 0], "JPEG", quality=95),
        encoded(textured(60, 60, seed=3), "JPEG", quality=50, restart_marker_blocks=2),
    ]
    rng = np.random.default_rng(0)
    source = Files(0)
    source.images = [whole[n % 4] if n % 11 == 10 else malformed(whole[n % 4], rng) for n in range(1100)]
    return source


@pytest.mark.slow
def test_a_thousand_malformed_images(thousand, capfd):
    """No crash, no hang, and the same twice, however many threads; every one is counted."""
    runs, counts = [], []
    for threads in (1, 8, 8):
        corrupt = CorruptImages(limit=1000)
        runs.append(train(thousand, 22, AUGMENT, batch_size=50, threads=threads, corrupt=corrupt))  # one epoch
        counts.append(corrupt.names)
    assert_same(runs[1], runs[0])
    assert_same(runs[2], runs[0])
    assert counts[0] == counts[1] == counts[2]
    unusable = {thousand.name_of(n) for n in range(1100) if not _decodes(thousand[n])}
    assert counts[0] == unusable
    assert 250 < len(unusable) < 1000  # a change of single bytes often leaves an image that is only ugly
    assert not any(int(name[4:-4]) % 11 == 10 for name in unusable)

    (batch,) = evaluate(thousand, batch_size=1100, threads=8, corrupt=CorruptImages(limit=1000))
    assert batch["mask"].sum() == 1100 - len(unusable)
    with pytest.raises(UserError, match=rf"corrupt images: {len(unusable)}, more than .*={len(unusable) - 1}$"):
        evaluate(thousand, batch_size=50, corrupt=CorruptImages(limit=len(unusable) - 1))


def test_a_cut_jpeg_is_among_the_unusable(thousand):
    cut = [record for record in map(thousand.__getitem__, range(1100)) if JPEG_END not in record.image]
    assert len(cut) > 150
    assert not any(map(_decodes, cut))


def _decodes(record) -> bool:
    try:
        return decode(record.image).shape[2] == 3
    except UserError:
        return False
