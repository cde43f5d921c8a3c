"""The table of configurations and slices, from programs that are not compiled again."""

import json
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.versions import tpu_versions

SOUND = {
    "config": "dy_mobile",
    "topology": "v5e:2x2",
    "changes": [],
    "batch_size": 2048,
    "images_at_once": 512,
    "hosts": 2,
    "memory": 0.5,
    "exchanges_by_kind": {"all-reduce": [2, 30_500_000]},
    "evaluation_exchanges_by_kind": {},
    "undue_exchanges": 20,
    "kernels": 0.01,
    **tpu_versions(),
    "step": 0.1,
    "exchange": 0.02,
    "bound": "memory",
}


def run(path, *facts):
    path.write_text("".join(json.dumps(line) + "\n" for line in facts))
    configs = ",".join(line["config"] for line in facts)
    return scaling.main([f"--jsonl={path}", f"--configs={configs}", "--topologies=v5e:2x2", "--images-per-core=1024"])


def test_a_row_of_the_table(tmp_path, capsys):
    assert run(tmp_path / "facts", SOUND) == 0
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].split("|")[1:-1]]
    rate = "20,480"  # 2048 images in a tenth of a second; 300 x 1,281,167 of them take 5.2 hours
    exchanges = "20%: 2 all-reduce, 30.5 MB"
    days = "0.22"
    assert cells == [*("dy_mobile", "v5e:2x2", "512", "50%", "100", exchanges, "memory", rate), "10,240", "10", days]


@pytest.mark.parametrize(
    "change",
    [
        {"exchanges_by_kind": {"all-reduce": [1, 1], "all-gather": [1, 1]}},
        {"evaluation_exchanges_by_kind": {"all-to-all": [1, 1]}},
        {"undue_exchanges": 100_000},
        {"error": "it does not fit in the 16 GB of a device; use more chips"},
    ],
)
def test_a_program_that_is_not_sound_is_an_exit_status(change, tmp_path, capsys):
    assert run(tmp_path / "facts", SOUND, {**SOUND, "config": "resnet18", **change}) == 1
    assert "does not fit" in capsys.readouterr().out or "error" not in change


@pytest.fixture
def compiling(monkeypatch):
    """Returns the list of compiled programs, by a compiler that knows all configurations and slices."""
    asked = []

    def compiled(config, topology, changes):
        asked.append((config, topology))
        return {**SOUND, "config": config, "topology": topology}

    monkeypatch.setattr(scaling, "compiled", compiled)
    monkeypatch.setattr(scaling, "slice_devices", lambda slice: [])
    return asked


def test_another_program_is_compiled_and_kept(compiling, tmp_path):
    path = tmp_path / "facts"
    path.write_text(json.dumps({**SOUND, "step": 1.0}) + "\n" + '{"config": "resnet18", "topolo')  # cut off by a crash
    options = ["--configs=dy_mobile,resnet18", "--topologies=v5e:2x2", f"--jsonl={path}"]
    assert scaling.main(options) == scaling.main(options) == 0
    assert compiling == [("resnet18", "v5e:2x2")]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["config"], row["step"]) for row in rows] == [("dy_mobile", 1.0), ("resnet18", 0.1)]


@pytest.mark.parametrize("package", ["jax", "libtpu"])
def test_what_another_compiler_said_is_not_taken(package, compiling, tmp_path, capsys):
    stale = {**SOUND, package: "0.0.1", "step": 1.0}
    assert run(tmp_path / "facts", stale) == 0
    assert compiling == [("dy_mobile", "v5e:2x2")]
    assert "| 100 " in capsys.readouterr().out


def test_unknown_times_of_kernels_are_marked(tmp_path, capsys):
    assert run(tmp_path / "facts", SOUND, {**SOUND, "config": "dy_shuffle", "kernels": None}) == 0
    *_, known, unknown, empty, note = capsys.readouterr().out.splitlines()
    assert "?" not in known
    cells = [cell.strip() for cell in unknown.split("|")]
    assert (cells[5], cells[8]) == ("100?", "20,480?")
    assert (empty, note) == ("", scaling.UNKNOWN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--configs=dy_mobile,dy_mobil"], "argument --configs: unknown name 'dy_mobil'"),
        (["--topologies=v5e:2x2,v9:2x2"], "argument --topologies: unknown TPU 'v9'"),
        (["--images-per-core=0"], "argument --images-per-core: must be a positive float"),
        (["--jsonl=/nowhere/facts"], "argument --jsonl: there is no directory /nowhere"),
        (["--config.model.remt=true"], "remt"),
        (["--remat"], "cannot read '--remat'"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_compiled(arguments, message, compiling, capsys):
    with pytest.raises(SystemExit):
        scaling.main(arguments)
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not compiling


def test_the_table_of_the_documentation_is_what_is_printed():
    lines = (Path(__file__).parents[2] / "docs/tpu.md").read_text().splitlines()
    rows = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in lines if line.startswith("|")]
    assert scaling.HEADER in rows
