"""Docstrings are sentences: none of the public ones begins with a preposition, a pronoun or another fragment's word."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = """
    about above after against along among around as at because before behind below beneath beside besides between beyond
    but by despite down during except for from how in inside into like near of off on once onto out outside over per
    since so than that through throughout till to toward towards under until unto up upon what whatever when where
    whereas whether which whichever while who whoever whom whose why with within without
    """
FRAGMENTS = frozenset(WORDS.split())
DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def fragments(source: str) -> list[str]:
    """Returns 'line name: docstring' of every public function, class and property whose docstring is a fragment."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and not node.name.startswith("_"):
            words = (ast.get_docstring(node) or "").split()
            if words and words[0].strip(".,:;`").lower() in FRAGMENTS:
                found.append(f"{node.lineno} {node.name}: {' '.join(words[:8])}")
    return found


@pytest.mark.parametrize("docstring", ["Of the layer, its kernels.", "By name.", "That the run prints.", "What it is."])
def test_fragments_are_found(docstring):
    source = f'class Layer:\n    @property\n    def kernels(self):\n        """{docstring}"""\n'
    assert fragments(source) == [f"3 kernels: {docstring}"]


@pytest.mark.parametrize("docstring", ["Returns the kernels by name.", "The kernels of a layer.", "Ofen is a name."])
def test_sentences_pass(docstring):
    assert not fragments(f'def kernels():\n    """{docstring}"""\n')


def test_private_functions_and_missing_docstrings_pass():
    assert not fragments('def _kernels():\n    """Of the layer."""\n\n\ndef kernels():\n    return 1\n')


def test_public_docstrings_are_sentences():
    files = [file for package in ("dynet_jax", "dynet_runtime") for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    found = [f"{file.relative_to(ROOT)}:{line}" for file in sorted(files) for line in fragments(file.read_text())]
    assert not found, "begin them with 'Returns ...', or say what the class is:\n" + "\n".join(found)
