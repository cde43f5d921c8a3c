"""The half hour on a GPU: its order, its time limits, what it records of sections that fail, and how it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import correctness, dynamic_conv, gpu_half_hour, half_hour_run, half_hour_sections, throughput
from benchmarks.half_hour_goals import goals
from benchmarks.half_hour_sections import Section, make_sections
from dynet_jax import cli
from dynet_jax.data.pack import pack_folder
from tests.data.images import encoded, smooth

ROOT = Path(__file__).parents[2]
GPU = {"is": "jax on a GPU", "runs_on": "gpu", "card": "a card"}
PARSERS = {
    "benchmarks.correctness": correctness.parse_arguments,
    "benchmarks.throughput": throughput.parse_arguments,
    "benchmarks.dynamic_conv": dynamic_conv.parse_arguments,
}
WRITE = "import pathlib, sys; pathlib.Path({file!r}).open('a').write('{{\"passed\": true}}\\n'); "


def section(folder: Path, name: str, code: str = "", **options) -> Section:
    """A section that writes a row into NAME.jsonl and then does what the code says."""
    script = WRITE.format(file=str(folder / f"{name}.jsonl")) + code
    given = {"seconds": 100, "results": (f"{name}.jsonl",), **options}
    return Section(name, ("-c", script), **given)


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """Sections that take no time, and a machine with a GPU."""
    out = tmp_path / "out.json"
    folder = tmp_path / "out.parts"
    sections = [
        section(folder, "correctness_good"),
        section(folder, "correctness_bad", "sys.exit(3)"),
        section(folder, "training_killed", "import os; os.kill(os.getpid(), 9)"),
        section(folder, "training_hanging", "import time; time.sleep(600)", seconds=20),
        section(folder, "inference"),
    ]
    monkeypatch.setattr(gpu_half_hour, "make_sections", lambda *_: sections)
    monkeypatch.setattr(gpu_half_hour, "describe_device", lambda rehearse: dict(GPU))
    monkeypatch.setattr(gpu_half_hour, "seconds_for", lambda waiting, left: 0.1 * waiting[0].seconds)
    monkeypatch.setattr(gpu_half_hour, "LEAST", 0.0)
    monkeypatch.setattr(half_hour_run, "GRACE", 0.5)
    return out


@pytest.mark.parametrize("rehearse", [False, True])
def test_correctness_comes_first_and_training_runs_last(rehearse, tmp_path, monkeypatch):
    monkeypatch.setattr(half_hour_sections, "has_pytorch", lambda: False)
    kinds = [section.name.partition("_")[0] for section in make_sections(tmp_path, 64, None, rehearse)]
    assert list(dict.fromkeys(kinds)) == ["correctness", "training", "inference", "layers", "reproduce"]
    monkeypatch.setattr(half_hour_sections, "has_pytorch", lambda: True)
    names = [section.name for section in make_sections(tmp_path, 64, "DIR", rehearse)]
    assert (names[-1], len(names)) == ("reproduce", len(set(names)))
    families = ["mobile", "resnet18", "resnet50", "shuffle"]
    assert names[3:11] == [f"{kind}_{name}" for kind in ("training", "pytorch") for name in families]


@pytest.fixture
def packed_images(tmp_path):
    """A packed dataset with images for one batch of CIFAR-10's recipe."""
    for number in range(140):
        path = tmp_path / "images" / ("train" if number < 130 else "test") / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(smooth(32, 32), "PNG"))
    assert pack_folder(tmp_path / "images", tmp_path / "packed")
    return str(tmp_path / "packed")


@pytest.mark.slow
@pytest.mark.parametrize("rehearse", [False, True])
def test_the_programs_understand_their_arguments(rehearse, packed_images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(half_hour_sections, "has_pytorch", lambda: True)
    for data in (None, packed_images):
        for found in make_sections(tmp_path, 64, data, rehearse):
            _, program, *arguments = found.command
            if program in PARSERS:
                assert PARSERS[program]([*arguments, "--limit=20"]).limit == 20
            else:
                assert program == "dynet_jax.cli"
                assert cli.main([*arguments, "--dry-run"]) == 0
                assert "dy_" in capsys.readouterr().out


def test_kernels_are_asked_for_and_turned_off():
    asked = {
        found.name: found.environment.get("DYNET_JAX_GPU_KERNELS") for found in make_sections(Path(), 64, None, False)
    }
    assert asked["correctness_kernels"] == asked["correctness_kernels_networks"] == "1"
    assert asked["correctness_forms"] == asked["layers"] == "0"


@pytest.mark.slow
def test_failing_sections_are_recorded_and_the_others_go_on(fakes, capfd):
    assert gpu_half_hour.main([f"--out={fakes}"]) == 1
    found = json.loads(fakes.read_text())
    statuses = {name: record["status"] for name, record in found["sections"].items()}
    assert statuses == {
        "correctness_good": "finished",
        "correctness_bad": "exit status 3",
        "training_killed": "died: signal 9",
        "training_hanging": "over 2 s",
        "inference": "finished",
    }
    assert all(record["rows"] == [{"passed": True}] for record in found["sections"].values())
    printed = capfd.readouterr()
    assert printed.out.startswith("jax on a GPU gpu a card\n")
    assert "| all forms, kernels and networks are correct" in printed.out
    assert "[5/5] inference: at most 10s; all of them at most 1m40s more, until " in printed.err


@pytest.mark.slow
def test_the_same_command_goes_on_and_repeats_nothing(fakes, capfd):
    def rows_of(name):
        return len(json.loads(fakes.read_text())["sections"][name]["rows"])

    gpu_half_hour.main([f"--out={fakes}", "--only=correctness"])
    assert list(json.loads(fakes.read_text())["sections"]) == ["correctness_good", "correctness_bad"]
    gpu_half_hour.main([f"--out={fakes}"])
    assert (rows_of("correctness_good"), rows_of("correctness_bad"), rows_of("inference")) == (1, 1, 1)
    gpu_half_hour.main([f"--out={fakes}", "--retry", "--only=correctness"])
    assert (rows_of("correctness_good"), rows_of("correctness_bad")) == (1, 2)
    assert "1 of 5 sections to run; the others have been run" in capfd.readouterr().err


@pytest.mark.slow
def test_a_stopped_training_run_is_taken_up_again(fakes, monkeypatch, tmp_path):
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); time.sleep(600)"
    training = section(tmp_path / "out.parts", "reproduce", code, seconds=30, keeps_time=False)
    monkeypatch.setattr(gpu_half_hour, "make_sections", lambda *_: [training])
    for rows in (1, 2):
        gpu_half_hour.main([f"--out={fakes}", "--only=reproduce"])
        record = json.loads(fakes.read_text())["sections"]["reproduce"]
        assert (record["status"], len(record["rows"])) == ("stopped", rows)


@pytest.mark.slow
def test_what_a_section_starts_ends_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(half_hour_run, "GRACE", 0.2)
    code = "import subprocess; child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True); child.wait()"
    record = half_hour_run.run_section(section(tmp_path, "hanging", code, keeps_time=False), 2.0, tmp_path)
    assert record["status"] == "over 2 s"
    time.sleep(0.2)
    stat = Path(f"/proc/{int(record['output'])}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


RUNNER = """
import sys
from pathlib import Path
from benchmarks import gpu_half_hour
from tests.benchmarks.test_half_hour import GPU, section
folder = Path(sys.argv[1]).with_suffix(".parts")
sections = [section(folder, "correctness_first"), section(folder, "inference", "import time; time.sleep(600)")]
gpu_half_hour.make_sections = lambda *_: sections
gpu_half_hour.describe_device = lambda rehearse: dict(GPU)
sys.exit(gpu_half_hour.main([f"--out={sys.argv[1]}"]))
"""


@pytest.mark.slow
def test_a_kill_loses_the_section_under_way_alone(tmp_path, monkeypatch, capfd):
    out = tmp_path / "out.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(out)], env=environment, cwd=ROOT)
    under_way = tmp_path / "out.parts/inference.jsonl"
    while not under_way.exists():
        assert runner.poll() is None
        time.sleep(0.1)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    assert list(json.loads(out.read_text())["sections"]) == ["correctness_first"]

    monkeypatch.setattr(gpu_half_hour, "describe_device", lambda rehearse: dict(GPU))
    with pytest.raises(gpu_half_hour.UserError, match="or a section that it has left behind"):
        gpu_half_hour.main([f"--out={out}"])
    _end_what_runs(under_way)
    sections = [section(tmp_path / "out.parts", name) for name in ("correctness_first", "inference")]
    monkeypatch.setattr(gpu_half_hour, "make_sections", lambda *_: sections)
    assert gpu_half_hour.main([f"--out={out}"]) == 0
    assert len(json.loads(out.read_text())["sections"]["correctness_first"]["rows"]) == 1


def _end_what_runs(file: Path) -> None:
    """Ends the process whose command names a file, and waits until it has."""
    for process in Path("/proc").glob("[0-9]*"):
        if process.name != str(os.getpid()) and str(file).encode() in _command(process):
            os.kill(int(process.name), signal.SIGKILL)
            while str(file).encode() in _command(process):
                time.sleep(0.05)


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def row(form: str, twin: float, base: float) -> dict:
    return {"network": "dy_mobile", "form": form, "batch": 256, "of_twin": twin, "of_base": base}


def test_goals():
    sections = {
        "correctness_forms": {"status": "finished", "rows": [{"passed": True}, {"passed": True}]},
        "training_mobile": {"rows": [row("auto", 0.5, 0.7), row("pallas", 0.8, 0.99), {"network": "mobilenet_v2"}]},
        "training_forms_mobile": {"rows": [row("kernel", 0.6, 0.9)]},
        "inference": {"rows": [row("auto", 2.0, 2.0)]},  # of no goal
    }
    found = {goal["goal"]: (goal["found"], goal["verdict"]) for goal in goals(sections, rehearsal=False)}
    assert found["all forms, kernels and networks are correct"] == (
        "2 of 2 cases; 1 of 4 sections finished",
        "not measured",
    )
    assert found["mobile: training images/s, Dy / Fix at least 0.8"] == ("0.80 (pallas, batch 256)", "met")
    assert found["mobile: training images/s, Dy / base at least 1"] == ("0.99 (pallas, batch 256)", "missed")
    assert found["resnet18: training images/s, Dy / base at least 1"] == ("", "not measured")
    assert len(found) == 1 + 2 * 4
    assert {goal["verdict"] for goal in goals(sections, rehearsal=True)} == {"not measured"}


@pytest.mark.parametrize(
    ("status", "passed", "verdict"),
    [
        ("finished", [True], "met"),
        ("died: signal 6", [True], "not measured"),  # a crash of the compiler says nothing of the other cases
        ("over 60 s", [], "not measured"),
        ("exit status 1", [True, False], "missed"),
    ],
)
def test_correctness_is_known_when_all_of_its_sections_have_finished(status, passed, verdict):
    names = [section.name for section in make_sections(Path(), 1, None, False) if "correctness" in section.name]
    sections = {name: {"status": "finished", "rows": [{"passed": True}]} for name in names}
    sections["correctness_kernels"] = {"status": status, "rows": [{"passed": value} for value in passed]}
    assert goals(sections, rehearsal=False)[0]["verdict"] == verdict
    if verdict == "met":
        del sections["correctness_networks"]
        assert goals(sections, rehearsal=False)[0]["verdict"] == "not measured"


def test_time_is_divided(tmp_path):
    measured, *others = [section(tmp_path, "a"), *(section(tmp_path, name, seconds=None) for name in "bc")]
    left = 200 + half_hour_run.GRACE
    assert gpu_half_hour.seconds_for([measured, *others], left) == 100
    assert gpu_half_hour.seconds_for([measured], 50 + half_hour_run.GRACE) == 50
    assert gpu_half_hour.seconds_for(others, left) == 100
    assert gpu_half_hour.seconds_for(others[1:], left) == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes=-1"], "argument --minutes: must be a positive float, not '-1'"),
        (["--data=nowhere"], "argument --data: nowhere is not a packed dataset: it has no dataset.json"),
        (["--only=training,speed"], "argument --only: unknown name 'speed'; choose from: correctness, inference,"),
        (["--out=no/such/out.json"], "argument --out: there is no directory no/such"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu_half_hour.main(["--out=x.json", *arguments])
    assert message in capsys.readouterr().err


def test_a_file_of_something_else_is_not_overwritten(fakes):
    fakes.write_text('{"mine": 1}')
    with pytest.raises(gpu_half_hour.UserError, match=r"is no file of benchmarks\.gpu_half_hour; name another --out"):
        gpu_half_hour.main([f"--out={fakes}"])
    assert fakes.read_text() == '{"mine": 1}'
    fakes.unlink()
    gpu_half_hour.main([f"--out={fakes}", "--only=inference"])
    with pytest.raises(gpu_half_hour.UserError, match="was made with batch 256, and this is 64; name another --out"):
        gpu_half_hour.main([f"--out={fakes}", "--batch=64"])
    (fakes.parent / "packed").mkdir()
    (fakes.parent / "packed" / "dataset.json").write_text("{}")
    with pytest.raises(gpu_half_hour.UserError, match=r"was made with data None, and this is .*packed; name another"):
        gpu_half_hour.main([f"--out={fakes}", f"--data={fakes.parent / 'packed'}"])


@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(gpu_half_hour.UserError, match=r"there is no GPU: jax .* on cpu\. On a CPU, --rehearse runs"):
        gpu_half_hour.main([f"--out={tmp_path / 'out.json'}"])
    assert not (tmp_path / "out.json").exists()
