"""Docstrings as Markdown: doctests, whose `>>>` it would take for quotations, and lists of names on several lines."""

import re

import griffe

NAMES = re.compile(r"^ +\w+,\s[\w,\s]*\w: ", re.MULTILINE)  # 'strides, padding: '


class Docstrings(griffe.Extension):
    """Puts fences around doctests, and the names that share a description on one line."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(NAMES.sub(_as_one, obj.docstring.value))


def _as_one(names: re.Match) -> str:
    """'strides, padding: ' with spaces that do not end a name: what follows one would be taken for its type."""
    return re.sub(r",\s+", ",\u00a0", names[0])


def fenced(text: str) -> str:
    """The text, with a fence around each run of lines from `>>>` to an empty line."""
    lines, indent = [], None
    for line in [*text.split("\n"), ""]:
        if indent is None and line.lstrip().startswith(">>>"):
            indent = line[: len(line) - len(line.lstrip())]
            lines += ["", f"{indent}```pycon"]
        elif indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        lines.append(line)
    return "\n".join(lines)
