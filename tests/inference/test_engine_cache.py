"""The engine's library on the disk: what was cut short, changed or cannot be loaded is never loaded."""

import concurrent.futures
import ctypes
import os
import shutil
import stat
from pathlib import Path

import pytest

from dynet_runtime import Error, build, library
from tests.inference.test_programs import needs_compiler

STUBS = "\n".join(
    f'extern "C" __attribute__((visibility("default"))) int {name}() {{ return 0; }}' for name in library.FUNCTIONS
)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, and an engine that is compiled in no time."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "level.cpp").write_text(STUBS)
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache"


def make() -> Path:
    return build.build.__wrapped__()


def load(monkeypatch) -> ctypes.CDLL:
    monkeypatch.setattr(library, "build", make)
    return library.load_library.__wrapped__()


def compiler(folder: Path, script: str) -> str:
    """A program that a test has instead of a compiler."""
    path = folder / "compiler"
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@needs_compiler
@pytest.mark.parametrize(
    "damage",
    [
        lambda file: os.truncate(file, 4097),
        lambda file: os.truncate(file, 0),
        lambda file: file.write_bytes(b"\x00" * file.stat().st_size),
        lambda file: file.write_bytes(file.read_bytes().replace(b"dynet_run", b"dynet_ran")),
        lambda file: file.write_bytes(file.read_bytes() + b"\n"),
        lambda file: file.rename(file.with_name(file.name.replace(".so", "0.so"))),
        lambda file: file.unlink(),
    ],
    ids=["cut short", "empty", "zeros", "changed", "longer", "renamed", "gone"],
)
def test_a_damaged_library_is_compiled_anew(cache, monkeypatch, damage):
    first = make()
    content = first.read_bytes()
    assert make() == first
    os.utime(first, (1, 1))
    damage(first)
    assert load(monkeypatch).dynet_has_bfloat16() == 0
    (again,) = cache.rglob("*.so")
    assert len(again.read_bytes()) == len(content)
    assert again.stat().st_mtime > 1
    assert make() == again


@needs_compiler
def test_a_whole_library_is_not_compiled_again(cache, monkeypatch):
    first = make()
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("it is there"))
    assert make() == first


@needs_compiler
def test_two_processes_that_compile_at_once(cache):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = {future.result() for future in [pool.submit(make) for _ in range(4)]}
    assert made <= set(cache.rglob("*.so"))
    assert all(build._digest_of(path) in path.name for path in made)
    assert [path for path in cache.rglob("*") if path.is_dir() and path.name.startswith("tmp")] == []


@pytest.mark.parametrize("content", ["", "no library", "\x7fELF\x01"], ids=["empty", "text", "another machine's"])
def test_what_a_compiler_makes_and_nobody_can_load(cache, tmp_path, monkeypatch, content):
    script = f'#!/bin/sh\nfor last; do :; done\n[ "$last" = --version ] || printf \'{content}\' > "$last"\n'
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    with pytest.raises(Error, match=r"cannot be loaded from .*\.so: .*; remove that file, .*XDG_CACHE_HOME"):
        load(monkeypatch)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-compiler", r"\(no-such-compiler is not there\)"),
        ("'", r"\$CXX cannot be read as a command: No closing quotation"),
        ("true", "true cannot compile the native engine: it leaves no library; name another compiler as"),
        ("false", "false cannot compile the native engine: exit code 1"),
        ("sh -c 'echo no room >&2; exit 3'", "cannot compile the native engine: no room"),
        ("sh -c 'kill -9 $$'", "cannot compile the native engine: exit code -9"),
    ],
)
def test_compilers_that_are_none(cache, monkeypatch, command, message):
    monkeypatch.setenv("CXX", command)
    with pytest.raises(Error, match=message):
        make()
    assert not list(cache.rglob("*.so"))


def test_a_compiler_of_another_machine(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler(tmp_path, "\x7fELF\x01"))
    with pytest.raises(Error, match="cannot compile the native engine: it does not start: Exec format error"):
        make()


def test_a_compiler_that_does_not_end(cache, monkeypatch):
    monkeypatch.setattr(build, "SECONDS", 0.1)
    monkeypatch.setenv("CXX", "sh -c 'sleep 60'")
    with pytest.raises(Error, match=r"it takes over 0\.1 s"):
        make()


@needs_compiler
def test_a_compiler_with_arguments(cache, monkeypatch):
    name = next(filter(shutil.which, build.COMPILERS))
    plain = make()
    monkeypatch.setenv("CXX", f"env NOTHING=1 {name} -O1")
    assert make() != plain


def test_no_folder_for_it(cache, monkeypatch):
    cache.write_text("in the way")
    monkeypatch.setattr(build, "_run", lambda *_: "")
    with pytest.raises(Error, match=r"cannot be written to .* name another cache folder"):
        make()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(Error, match=r"there is no home folder for compiled programs; .*XDG_CACHE_HOME"):
        make()


@needs_compiler
def test_a_folder_that_is_only_read(cache, monkeypatch):
    """What is there is used; a damaged library cannot be replaced there, and one line says where."""
    first = make()

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(build.tempfile, "TemporaryDirectory", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert make() == first
    os.truncate(first, 100)
    with pytest.raises(Error, match=f"cannot be written to {first.parent}: Read-only file system; name another"):
        make()
