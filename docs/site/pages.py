"""Pages of the site that are files outside of docs/: each is written once, and reads well in the repository too."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
}
LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files, config):
    """Adds the pages."""
    for source, page in PAGES.items():
        text = _with_links((ROOT / source).read_text(), Path(source).parent)
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "CITATION.cff", abs_src_path=str(ROOT / "CITATION.cff")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links from a page of docs/ to those files lead to their pages."""
    return markdown if page.file.generated_by else _with_links(markdown, Path("docs", page.file.src_uri).parent)


def _with_links(text: str, folder: Path) -> str:
    """The text of a file in a folder of the repository, with links as they are in the site."""

    def replaced(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder.as_posix(), link["path"]))
        page = PAGES.get(target, target.removeprefix("docs/") if "docs" not in folder.parts else None)
        return link[0] if page is None else f"]({page}{link['anchor'] or ''})"

    return LINK.sub(replaced, text)
