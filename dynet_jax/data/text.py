"""Names of classes from a text file, one in every line, as editors of all systems write it."""

import codecs
import unicodedata
from pathlib import Path

from dynet_jax.data.contents import same_name
from dynet_jax.errors import UserError

# UTF-32 first, which begins as UTF-16 does.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"  # marks that stay where files are joined or text is pasted


def read_class_list(path: Path) -> list[str]:
    """The names in the lines of a file, in UTF-8 or with a mark that says which Unicode it is.

    Raises UserError, naming the line, for another encoding, an empty line between others, and a name that is there
    twice: all would give classes the names of others.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read; it must have the name of a class in every line") from error
    lines = _decode(content, path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    names = [line.strip().strip(INVISIBLE).strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise UserError(f"line {number} of {path} is empty; remove it, or name the class that it stands for")
        if any(unicodedata.category(letter) == "Cc" for letter in name if letter != "\t"):
            raise UserError(f"line {number} of {path} has control characters; save the file as UTF-8")
        first = seen.setdefault(same_name(name), number)
        if first != number:
            raise UserError(
                f"{path} names the class {name!r} in lines {first} and {number}; give each class its own name"
            )
    return names


def _decode(content: bytes, path: Path) -> str:
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path} is not a text in UTF-8 (line {line}); save it as UTF-8") from error
