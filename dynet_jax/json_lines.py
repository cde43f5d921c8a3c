"""JSON-lines files that one process appends to while others read; a full disk or a crash leaves no broken line."""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path


def append(file: Path, *rows: Mapping) -> None:
    """Appends rows, all of them or none. Raises OSError if they cannot be written."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with file.open("ab+", buffering=0) as stream:  # unbuffered: a failed buffer would be written again at the end
        end = stream.seek(0, os.SEEK_END)
        if end and os.pread(stream.fileno(), 1, end - 1) != b"\n":
            text = b"\n" + text  # keeps a line that a crash has truncated separate
        try:
            while text:  # a nearly full disk first accepts some bytes
                text = text[stream.write(text) :]
        except OSError:
            with contextlib.suppress(OSError):
                stream.truncate(end)
            raise


def read(file: Path) -> tuple[list[dict], int]:
    """Returns the rows of a file, none if it does not exist, and the number of its broken lines.

    An unfinished last line is not counted, because it may be in the course of being written.
    """
    lines = file.read_bytes().split(b"\n") if file.exists() else [b""]
    rows = [row for line in lines if (row := _row(line)) is not None]
    return rows, sum(_row(line) is None for line in lines[:-1] if line)


def repair(file: Path) -> int:
    """Removes broken lines from a file that nobody else writes, and returns their number. Raises OSError."""
    if not file.exists():
        return 0
    content = file.read_bytes()
    lines = re.findall(rb"[^\n]*\n|[^\n]+", content)
    broken = [line for line in lines if line.strip() and _row(line) is None]
    if not broken:
        return 0
    if lines.index(broken[0]) == len(lines) - 1:
        os.truncate(file, len(content) - len(broken[0]))  # needs no space, in case a full disk was the cause
    else:
        temporary = file.with_name(f"{file.name}.tmp")
        temporary.write_bytes(b"".join(line for line in lines if line not in broken))
        os.replace(temporary, file)
    return len(broken)


def _row(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:  # not JSON, or not text
        return None
    return row if isinstance(row, dict) else None
