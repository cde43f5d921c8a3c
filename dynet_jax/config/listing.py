"""The documentation of configuration keys: `train.py --help`, and the tables of docs/configuration.md.

`python -m dynet_jax.config.listing docs/configuration.md` updates the tables in the document.
"""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from dynet_jax.config.keys import GROUPS
from dynet_jax.config.schema import ARMS, TASKS, Key

BEGIN, END = "<!-- keys: begin -->\n", "<!-- keys: end -->\n"


def help_text() -> str:
    """Returns a list of all keys by group, with default, range and a line of help each."""
    lines = ["--config.KEY=VALUE sets a key of the configuration. All keys, with the defaults of the recipes:"]
    for group, keys in GROUPS.items():
        lines += ["", f"{group}:"]
        for key in keys:
            allowed = f" Must be {key.range}." if key.rule else ""
            text = textwrap.fill(f"{key.help}{allowed}", 112, initial_indent=" " * 6, subsequent_indent=" " * 6)
            lines += [f"  {key.name}: {_defaults(key)}", text]
    return "\n".join(lines)


def tables() -> str:
    """Returns the keys as Markdown tables, with the conditions under which a key may change."""
    head = "| key | default | allowed | what |\n|---|---|---|---|"
    parts = []
    for group, keys in GROUPS.items():
        rows = (f"| `{key.name}` | {_defaults(key, '`')} | {key.range} | {key.help}{_notes(key)} |" for key in keys)
        parts.append("\n".join((f"### {group}", "", head, *rows)))
    return "\n\n".join(parts) + "\n"


def _defaults(key: Key, quote: str = "") -> str:
    """Returns the defaults as written on the command line, for each task if they differ."""
    texts = {task: f"{quote}{_written(value)}{quote}" for task, value in key.defaults.items() if value != ""}
    unit = f" {key.unit}" if key.unit else ""
    if not texts:
        return "the network's" if key.defaults == {} else "the file's"
    if list(texts) == list(TASKS) and len(set(texts.values())) == 1:
        return texts[TASKS[0]] + unit
    return ", ".join(f"{text}{unit if text.strip(quote) != 'None' else ''} ({task})" for task, text in texts.items())


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value) if isinstance(value, tuple | list | dict) else str(value)


def _notes(key: Key) -> str:
    free = f" May change {key.free}." if key.free else " It cannot change on resuming." if key.fixed else ""
    arms = " `dynet reproduce` sets it." if key.set_by == ARMS else ""
    return free + (arms or (f" `dynet reproduce` takes it from `{key.set_by}`." if key.set_by else ""))


def replaced(text: str) -> str:
    """Returns a document with updated tables."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{tables()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(replaced(path.read_text()))
