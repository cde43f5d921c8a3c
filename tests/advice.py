"""The advice in the package's messages, found in its source: keys of the configuration, commands, and options."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dynet_jax

PACKAGE = Path(dynet_jax.__file__).parent
VALUE = "\N{REPLACEMENT CHARACTER}"  # stands for what an f-string fills in
KEY = re.compile(rf"--config\.([a-z_0-9.{VALUE}]*[a-z_0-9{VALUE}])(=(?:'[^']*'|[^\s;,)`]*))?")
COMMAND = re.compile(r"(?<![\w./-])(dynet|train\.py) +([^`;\n|]*)")
OPTION = re.compile(r"(?<![\w./-])--(?!config\b)([a-z][a-z_-]*)(=[^\s;,)`]+)?")


class Message(NamedTuple):
    """A string of the package that names something to type."""

    file: str
    line: int
    text: str

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Returns keys of the configuration with their values, like ('epochs', '=5'); '' if they are only named."""
        return KEY.findall(self.text)

    @property
    def commands(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Returns shell commands, 'train.py' or a word after 'dynet', with the options that follow and their values."""
        found = [(program, rest.split()) for program, rest in COMMAND.findall(self.text)]
        named = [(words[0] if p == "dynet" else p, " ".join(words)) for p, words in found if words]
        return [(name.strip(" ,."), OPTION.findall(rest)) for name, rest in named]

    @property
    def options(self) -> list[tuple[str, str]]:
        """Returns options of commands with their values, without those of the configuration."""
        return OPTION.findall(self.text)


def messages() -> Iterator[Message]:
    """Returns all strings, except docstrings, that name a key, a command or an option."""
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text())
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        inner -= {id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)}
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in inner | docstrings or not isinstance(node, ast.JoinedStr | ast.Constant):
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else VALUE for p in parts)
            message = Message(str(file.relative_to(PACKAGE)), node.lineno, text)
            if message.keys or message.commands or message.options:
                yield message
