"""From a trained work directory to files that run elsewhere, by the command; the examples of docs/inference.md."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

from dynet_jax.cli import main
from dynet_jax.errors import UserError
from dynet_jax.export.files import write_whole
from dynet_jax.inference import load
from tests.inference.workdirs import make_workdir

CLASSES = ["cat", "dog", "newt"]
EXAMPLES = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "inference.md").read_text(), re.S)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("runs") / "tiny", CLASSES)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    return path


def predicted(workdir, photo, capfd) -> dict[str, float]:
    capfd.readouterr()
    assert main(["predict", str(workdir), str(photo), "--json"]) == 0
    return {row["class"]: row["probability"] for row in json.loads(capfd.readouterr().out)["top"]}


def run_alone(code, folder, *arguments, without=("dynet_jax", "flax", "jax")) -> str:
    forbidden = f"\nimport sys\nassert not {set(without)} & set(sys.modules)\n"
    command = [sys.executable, "-c", code + forbidden, *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
def test_an_onnx_file_predicts_with_onnxruntime_alone(workdir, photo, tmp_path, capfd):
    """By the example of the documentation, the same as `dynet predict`."""
    out = tmp_path / "tiny.onnx"
    assert main(["export", str(workdir), "--format=onnx", f"--out={out}"]) == 0
    assert f"{out}: " in capfd.readouterr().out
    (example,) = [code for code in EXAMPLES if "onnxruntime" in code]
    lines = run_alone(example, tmp_path, out, photo).splitlines()
    found = {name: float(percent) for percent, _, name in map(str.split, lines)}
    for name, probability in predicted(workdir, photo, capfd).items():
        assert found[name] == pytest.approx(100 * probability, abs=0.11)


@pytest.mark.slow
def test_a_stablehlo_file_runs_with_jax_alone(workdir, tmp_path, capfd):
    assert main(["export", str(workdir), "--format=stablehlo", f"--out={tmp_path / 'digits.stablehlo'}"]) == 0
    (example,) = [code for code in EXAMPLES if "deserialize" in code]
    example += '\nprint(json.dumps(outputs["probabilities"].tolist()))'
    printed = run_alone(example, tmp_path, without=("dynet_jax", "flax"))
    wanted = load(workdir, runtime="jax")(np.zeros((1, 16, 16, 3), np.uint8))
    np.testing.assert_allclose(json.loads(printed), wanted, atol=1e-5)


@pytest.mark.slow
def test_the_default_file_lies_in_the_work_directory_and_is_not_replaced(workdir, capfd):
    command = ["export", str(workdir), "--format=onnx", "--storage=int8"]
    assert main(command) == 0
    path = workdir / "dy_mobile.onnx"
    small = path.stat().st_size
    assert main(command) == 2
    assert f"{path} is there already; name another file, or ask for --overwrite" in capfd.readouterr().err
    assert main([*command[:-1], "--overwrite"]) == 0
    assert path.stat().st_size > 1.2 * small


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=keras"], "unknown export format 'keras'; choose from: native, onnx, stablehlo"),
        (["--format=onnx", "--storage=float16"], "banks cannot be stored as 'float16'; did you mean"),
        (["--format=onnx", "--opset=7"], "opset 7 is not one of 19 to 23; --opset=19"),
        (["--format=onnx", "--batch=2"], "batch must be 1, or left out for any number of images, not 2"),
        (["--format=onnx", "--opset=0"], "opset 0 is not one of 19 to 23; --opset=19"),
        (["--format=stablehlo", "--opset=19"], "--opset is of --format=onnx; leave it out for stablehlo"),
        (["--format=onnx", "--platforms=cpu"], "--platforms is of --format=stablehlo; leave it out for onnx"),
        (["--format=stablehlo", "--platforms=gpu"], "unknown platform 'gpu'; did you mean"),
        (["--format=onnx", "--out=nowhere/x.onnx"], "nowhere/x.onnx cannot be written: No such file or directory"),
        (["--format=onnx", "--step=7"], "there is no checkpoint of step 7"),
    ],
)
def test_mistakes(workdir, tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    if not any(argument.startswith("--out") for argument in arguments):
        arguments = [*arguments, "--out=x"]
    assert main(["export", str(workdir), *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("dynet: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_not_a_work_directory(tmp_path, capfd):
    assert main(["export", str(tmp_path), "--format=onnx"]) == 2
    error = capfd.readouterr().err
    assert "is not a work directory of train.py" in error
    assert f"`train.py --config=FILE --workdir={tmp_path}`" in error


def test_without_the_exporter(monkeypatch, tmp_path, capfd):
    """It is told before anything is opened: here is nothing to open."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(tmp_path), "--format=onnx", f"--out={tmp_path / 'x'}"]) == 2
    assert "pip install onnx" in capfd.readouterr().err


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "network.onnx"
    path.write_text("mine")
    with pytest.raises(UserError, match="cannot be written: No such file"):
        write_whole(tmp_path / "nowhere" / "network.onnx", b"new")
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, "disk full"))
    with mock.patch("os.replace", full), pytest.raises(UserError, match="cannot be written: disk full"):
        write_whole(path, b"new")
    assert path.read_text() == "mine"
    write_whole(path, b"new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]
