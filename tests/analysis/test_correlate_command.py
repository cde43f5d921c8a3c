"""`dynet correlate` as a user meets it."""

import csv
import json
from unittest import mock

import pytest

from dynet_jax.cli import main
from dynet_jax.models import registry
from tests.analysis.workdirs import digits_workdir, register, save_untrained
from tests.data.maps import CLASSES, write_maps
from tests.test_cli import assert_one_line, cells, run
from tests.train import tiny_segmentation


@pytest.fixture(autouse=True)
def models():
    register()


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with mock.patch.dict(registry._MODELS):  # made before the fixture that takes a test's models away again
        register()
        return [digits_workdir(folder / name, name) for name in ("tiny", "tiny_static")]


@pytest.mark.slow
def test_two_networks_side_by_side(workdirs, tmp_path, capfd):
    out = tmp_path / "out"
    arguments = ["correlate", *workdirs, "--layer=stem,stage1", "--images=20", f"--out={out}"]
    code, text, err = run(main, arguments, capfd)
    assert (code, err) == (0, f"written to {out}\n")
    table, notes = text.split("\n\n")
    rows = cells(table)[2:]
    assert [row[:5] for row in rows] == [
        [str(workdir), layer, "12", "0", "66"] for workdir in workdirs for layer in ("stem", "stage1")
    ]
    for row in rows:
        assert sum(map(float, row[5:9])) == pytest.approx(100, abs=0.3)
    assert f"{workdirs[1]}, stage1: tiny_static, step 0, over 320 positions of 20 images of digits" in notes
    assert sorted(file.name for file in out.iterdir()) == [
        f"correlation.{suffix}" for suffix in ("csv", "json", "png", "svg")
    ]
    histogram = list(csv.DictReader((out / "correlation.csv").open()))
    assert len(histogram) == 4 * 100
    assert sum(int(row["pairs"]) for row in histogram) == 4 * 66
    saved = json.loads((out / "correlation.json").read_text())["networks"]
    assert [network["model"] for network in saved] == ["tiny", "tiny_static"]
    assert saved[0]["layers"]["stem"]["images"] == 20

    before = (out / "correlation.json").read_bytes()
    assert_one_line(run(main, arguments, capfd), "has correlation.csv, correlation.json", "or add --overwrite")
    assert (out / "correlation.json").read_bytes() == before


def test_as_json(workdirs, capfd):
    code, text, _ = run(main, ["correlate", workdirs[0], "--images=5", "--json"], capfd)
    assert code == 0
    (network,) = json.loads(text)["networks"]
    assert (network["dataset"], network["step"], list(network["layers"])) == ("digits", 0, ["stem"])


def test_names_of_layers(workdirs, capfd):
    code, text, err = run(main, ["correlate", workdirs[0], "--layer=list"], capfd)
    assert (code, err) == (0, "")
    assert [str(workdirs[0]), "stage1_block1/project", "4", "4", "12"] in cells(text)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--layer=stage2"], ["the network has no layer 'stage2'", "did you mean stage1"]),
        (["--layer=stem,stem"], ["'stem,stem' is not a list like A,B, with each once"]),
        (["--images=0"], ["at least one image is required, not 0"]),
        (["--images=all"], ["--images: invalid int value: 'all'"]),
        (["--step=7"], ["7"]),
        (["--step=last"], ["'last' is neither a number nor 'best'"]),
        (["--data=digit"], ["unknown dataset 'digit'; did you mean digits"]),
        (["--overwrite"], ["--overwrite is of the files in --out=DIR"]),
        (["missing"], ["missing is not a work directory of train.py"]),
    ],
    ids=" ".join,
)
def test_mistakes(arguments, parts, workdirs, capfd):
    assert_one_line(run(main, ["correlate", workdirs[0], *arguments], capfd), *parts)


@pytest.mark.slow
def test_a_network_for_segmentation(tmp_path, monkeypatch, capfd):
    write_maps(tmp_path / "maps", {"train": [(40, 48)] * 2, "val": [(40, 48), (33, 61)]})
    config = tiny_segmentation.get_config().unlock()
    config.data.name = f"maps:{tmp_path / 'maps'}"
    workdir = save_untrained(tmp_path / "run", config.lock(), CLASSES)
    code, text, _ = run(main, ["correlate", workdir, "--layer=stage1,head"], capfd)
    assert code == 0
    assert [row[1:3] for row in cells(text.split("\n\n")[0])[2:]] == [["stage1", "12"], ["head", "8"]]
