"""The tables of docs/ that are made of stored measurements.

    python -m benchmarks.documented            # writes all of them again
    python -m benchmarks.documented --check    # only says which ones differ

A page has the line `<!-- python -m benchmarks.NAME ARGUMENTS -->`, then what that command prints, and then
`<!-- end -->`. File names in the arguments may be patterns, relative to the repository. `make test` checks all of them.
"""

import contextlib
import importlib
import io
import re
import shlex
import sys
from pathlib import Path

from benchmarks.arguments import make_parser
from dynet_jax.arguments import FAILED, report_mistakes
from dynet_jax.console import say
from dynet_jax.errors import UserError
from dynet_jax.workdir.files import write_whole

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"(<!-- python -m (benchmarks\.\w+) (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def output(module: str, arguments: str) -> str:
    """Returns what a command prints. Raises UserError for a pattern without files, or if the command fails."""
    words = [word for text in shlex.split(arguments) for word in _files(text)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = importlib.import_module(module).main(words)
    if code:
        raise UserError(f"{module} ended with exit code {code}")
    return printed.getvalue().strip("\n")


def _files(text: str) -> list[str]:
    if "*" not in text:
        return [str(ROOT / text) if (ROOT / text).is_file() else text]
    found = sorted(map(str, ROOT.glob(text)))
    if not found:
        raise UserError(f"no file is named like {text}")
    return found


def written_again(text: str) -> str:
    """Returns a page with its tables made again."""
    return TABLE.sub(lambda found: f"{found[1]}\n{output(found[2], found[3])}\n\n{found[5]}", text)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("documented", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; the exit code says whether all are right")
    options = parser.parse_args(arguments)
    failed = 0
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        before = page.read_text()
        after = written_again(before)
        if after == before:
            continue
        if options.check:
            say(f"{page.relative_to(ROOT)} differs; write it by python -m benchmarks.documented")
            failed = FAILED
        else:
            write_whole(page, after.removesuffix("\n"))  # it ends what it writes with a new line
            say(f"wrote {page.relative_to(ROOT)}")
    return failed


if __name__ == "__main__":
    sys.exit(report_mistakes("documented", main))
