"""The cache of compiled programs: its place, and the treatment of entries that cannot be read or written."""

import os
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import jax
import pytest

from dynet_jax.train import program_cache
from dynet_jax.train.program_cache import use_compilation_cache


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Restores the settings that a test changes for the whole process."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    program_cache._say_once.cache_clear()
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_compilation_cache_is_where_it_is_asked_for(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    for elsewhere in (str(tmp_path / "own"), "", "gs://bucket/cache"):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", elsewhere)
        use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == before
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    use_compilation_cache()
    assert Path(jax.config.jax_compilation_cache_dir).parent == tmp_path / "dynet_jax"


@pytest.mark.parametrize("variable", ["JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"])
def test_no_folder_for_them(monkeypatch, tmp_path, capsys, variable):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    use_compilation_cache()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("WARNING: compiled programs cannot be cached and are compiled again at the next start (")
    assert str(tmp_path / "file") in line
    assert not jax.config.jax_enable_compilation_cache


def test_a_user_without_a_home(monkeypatch, capsys):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    use_compilation_cache()
    assert "there is no home folder for compiled programs" in capsys.readouterr().err


def test_damaged_entries_go(tmp_path, capsys):
    """Those of the program alone, and whole ones stay."""
    content = {
        "jit_step-1-cache": b"",
        "jit_step-2-cache": zlib.compress(b"a program" * 99)[:-9],
        "jit_step-3-cache": zlib.compress(b"a program"),
        "jit_steps-4-cache": b"",
    }
    for name, content_of_it in content.items():
        (tmp_path / name).write_bytes(content_of_it)
    shown = []
    warning = "Error reading persistent compilation cache entry for 'jit_step': error: Error -5 while decompressing"
    program_cache._answer(tmp_path, shown.append, UserWarning(warning), UserWarning, "file.py", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jit_step-3-cache", "jit_steps-4-cache"]
    expected = f"WARNING: jit_step in {tmp_path} cannot be read (error: Error -5 while decompressing); it is compiled"
    assert capsys.readouterr().err == f"{expected} again\n"
    assert shown == []


def test_other_warnings_are_shown_and_a_full_disk_is_said_once(tmp_path, capsys):
    def show(message, *rest):
        shown.append((str(message), *rest))

    shown = []
    program_cache._answer(tmp_path, show, UserWarning("something else"), UserWarning, "file.py", 1)
    assert shown == [("something else", UserWarning, "file.py", 1)]
    for program in ("a", "b"):
        full = f"Error writing persistent compilation cache entry for '{program}': OSError: No space left on device"
        program_cache._answer(tmp_path, show, UserWarning(full), UserWarning, "file.py", 1)
    assert len(shown) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


SCRIPT = """
import jax, jax.numpy as jnp
from dynet_jax.train.program_cache import use_compilation_cache
use_compilation_cache()
print(float(jax.jit(lambda x: (jnp.sin(x) @ x).sum())(jnp.ones((50, 50)))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kept", [lambda content: content[: len(content) // 2], lambda content: b"", lambda c: c[1:]])
def test_a_damaged_entry_is_written_anew(tmp_path, kept):
    """The result is the same, one line says it, and the next start has the program again."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start():
        command = [sys.executable, "-c", SCRIPT]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)

    first = start()
    entries = list((tmp_path / "cache").glob("jit__lambda-*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(kept(entry.read_bytes()))
    second, third = start(), start()
    assert first.stdout == second.stdout == third.stdout
    (line,) = second.stderr.splitlines()
    assert "it is compiled again" in line
    assert third.stderr == ""
