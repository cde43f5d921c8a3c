"""Class names from a text file, one per line, in the encodings of common editors."""

import codecs
import unicodedata
from pathlib import Path

from dynet_jax.console import warn
from dynet_jax.data.contents import listed, same_name
from dynet_jax.errors import UserError

# UTF-32 first, because its byte-order mark starts like that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"  # marks that remain when files are joined or text is pasted


def read_class_list(path: Path, count: int | None = None) -> list[str]:
    """Returns the names in the lines of a file, in UTF-8 or with a byte-order mark of another Unicode encoding.

    Raises UserError, naming the line, for another encoding, an empty line between others, and a repeated name, because
    all of these would shift names to other classes. `count` is the number of a network's outputs: empty lines are then
    ignored if exactly this many names remain, and a repeated name, like ImageNet's crane, is only reported.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read; it must have the name of a class in every line") from error
    lines = _decode(content, path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    names = [line.strip().strip(INVISIBLE).strip() for line in lines]
    found = {number: name for number, name in enumerate(names, 1) if name}
    places: dict[str, list[int]] = {}
    for index, (number, name) in enumerate(found.items(), 1):
        if index != number and len(found) != count:
            raise UserError(f"line {index} of {path} is empty; remove it, or name the class that it stands for")
        if any(unicodedata.category(letter) == "Cc" for letter in name if letter != "\t"):
            raise UserError(f"line {number} of {path} has control characters; save the file as UTF-8")
        places.setdefault(same_name(name), []).append(number)
    twice = [f"{name!r} in lines {' and '.join(map(str, lines))}" for name, lines in places.items() if len(lines) > 1]
    if twice and count is None:
        raise UserError(f"{path} names the class {twice[0]}; give each class its own name")
    if twice:
        warn(f"{path} names several classes {listed(twice)}; predictions cannot distinguish them")
    return list(found.values())


def _decode(content: bytes, path: Path) -> str:
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path} is not a text in UTF-8 (line {line}); save it as UTF-8") from error
