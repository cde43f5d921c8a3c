"""Tables of the docs that are made of stored measurements are what their commands print."""

import pytest

from benchmarks import documented
from dynet_jax.errors import UserError


def test_all_tables_of_the_docs_are_as_their_commands_print_them(capsys):
    assert documented.main(["--check"]) == 0, capsys.readouterr().err


def test_a_table_is_written_again_between_its_marks(tmp_path, monkeypatch, capsys):
    kept = sorted((documented.ROOT / "docs/measured/cifar10").glob("m6_*.json"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Nothing is made here\n")
    for file in kept:
        (tmp_path / "docs" / file.name).write_text(file.read_text())
    mark = "<!-- python -m benchmarks.kept_tables docs/m6_*.json -->"
    (tmp_path / "docs" / "page.md").write_text(f"before\n\n{mark}\n| old |\n<!-- end -->\n\nafter\n")
    monkeypatch.setattr(documented, "ROOT", tmp_path)
    assert documented.main(["--check"]) == 2
    assert "docs/page.md differs" in capsys.readouterr().err
    assert documented.main([]) == 0
    text = (tmp_path / "docs" / "page.md").read_text()
    assert text.startswith(f"before\n\n{mark}\n\nAll runs: `--config.")
    assert text.endswith("|\n\n<!-- end -->\n\nafter\n")
    assert text.count("\n| ") == 2 + len(kept)  # the header, the rule and the rows
    assert "old" not in text
    assert documented.main(["--check"]) == 0


def test_a_pattern_without_files_is_an_error():
    with pytest.raises(UserError, match="no file is named like"):
        documented.output("benchmarks.kept_tables", "docs/measured/nothing_*.json")
