"""The table of configurations and slices, from programs that are not compiled again."""

import json
import sys

import pytest

from benchmarks import scaling

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
    "step": 0.1,
    "exchange": 0.02,
    "bound": "memory",
}


def run(monkeypatch, path, *facts):
    path.write_text("".join(json.dumps(line) + "\n" for line in facts))
    configs = ",".join(line["config"] for line in facts)
    arguments = ["scaling", f"--jsonl={path}", f"--configs={configs}", "--topologies=v5e:2x2", "--images-per-core=1024"]
    monkeypatch.setattr(sys, "argv", arguments)
    return scaling.main()


def test_a_row_of_the_table(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path / "facts", SOUND) == 0
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
        {"error": "it does not fit in the 16 GB of a device; use more chips"},
    ],
)
def test_a_program_that_is_not_sound_is_an_exit_status(change, monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path / "facts", SOUND, {**SOUND, "config": "resnet18", **change}) == 1
    assert "does not fit" in capsys.readouterr().out or "error" not in change


def test_another_program_is_compiled_and_kept(monkeypatch, tmp_path):
    path = tmp_path / "facts"
    monkeypatch.setattr(scaling, "compiled", lambda config, topology, changes: {**SOUND, "config": config})
    options = type("Options", (), {"configs": "dy_mobile,resnet18", "topologies": "v5e:2x2", "jsonl": path})
    path.write_text(json.dumps({**SOUND, "step": 1.0}) + "\n")
    first, second = scaling.all_facts(options, [])
    assert (first["step"], second["config"]) == (1.0, "resnet18")
    assert [json.loads(line)["config"] for line in path.read_text().splitlines()] == ["dy_mobile", "resnet18"]
