"""Class names from files of all editors."""

import pytest

from dynet_jax.data.text import read_class_list
from dynet_jax.errors import UserError

NAMES = ["café", "sea lion", "Łódź"]
TEXT = "\n".join(NAMES)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_unicode_with_and_without_a_mark(tmp_path, encoding, newline):
    (tmp_path / "labels.txt").write_bytes((TEXT.replace("\n", newline) + 2 * newline).encode(encoding))
    assert read_class_list(tmp_path / "labels.txt") == NAMES


def test_utf_16_of_the_other_order(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_class_list(tmp_path / "labels.txt") == NAMES


def test_invisible_letters_are_left_out_but_within_a_name(tmp_path):
    (tmp_path / "labels.txt").write_text("\ufeffcat\u200b\n\ufeffdog\n u\u200cv\xa0\n")
    assert read_class_list(tmp_path / "labels.txt") == ["cat", "dog", "u\u200cv"]


def test_the_number_of_outputs_makes_it_clear(tmp_path, capsys):
    (tmp_path / "labels.txt").write_bytes(b"\ncat\r\r\ncrane\r\r\nfox\r\r\ncrane\r\r\n")
    assert read_class_list(tmp_path / "labels.txt", 4) == ["cat", "crane", "fox", "crane"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "labels.txt names several classes 'crane' in lines 4 and 8; predictions cannot distinguish them"
    )
    for count in (3, 5, None):
        with pytest.raises(UserError, match=r"line 1 of .*labels.txt is empty"):
            read_class_list(tmp_path / "labels.txt", count)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("cp1250"), r"labels.txt is not a text in UTF-8 \(line 1\); save it as UTF-8"),
        ("dog\ncafé".encode("latin-1"), r"\(line 2\)"),
        ("cat\ndog\n".encode("utf-16-le"), "has control characters; save the file as UTF-8"),
        (b"\xff\xfec", "is not a text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "is not a text in UTF-8"),
        (b"cat\n\ndog\n", "line 2 of .*labels.txt is empty; remove it, or name the class"),
        (b"cat\ndog\n cat\n", "names the class 'cat' in lines 1 and 3; give each class its own name"),
        ("café\ncafe\u0301".encode(), "in lines 1 and 2"),
    ],
)
def test_what_would_give_classes_other_names(tmp_path, content, message):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_class_list(tmp_path / "labels.txt")
    assert "\n" not in str(caught.value)
