"""Docstrings as Markdown: doctests, whose `>>>` it would take for quotations, and lists of names on several lines."""

import re

import griffe

NAMES = re.compile(r"^( +\w[\w, ]*,)\n +(\w[\w, ]*: )", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Puts fences around doctests, and the names that share a description on one line."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(NAMES.sub(r"\1 \2", obj.docstring.value))


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
