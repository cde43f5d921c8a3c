"""The commands answer every mistake with exit code 2 and one line that says what would be right."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from dynet_jax import list_models
from dynet_jax.analysis import summary
from dynet_jax.analysis.subject import Subject
from dynet_jax.analysis.table import Table
from dynet_jax.arguments import report_mistakes
from dynet_jax.cli import main, train_main
from dynet_jax.data.tfds_source import PREPARE

CONFIG = f"--config={Path(__file__).parents[1] / 'configs' / 'dy_mobile.py'}"


def run(command, arguments, capfd):
    """(exit code, stdout, stderr), of what Python and the libraries below it print."""
    try:
        code = command([str(argument) for argument in arguments])
    except SystemExit as leaving:  # argparse's way
        code = leaving.code
    return code, *capfd.readouterr()


def assert_one_line(result, *parts):
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def cells(table):
    """Returns the cells of every line of a Markdown table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]


@pytest.fixture
def workdir(tmp_path):
    """A work directory without any run."""
    return tmp_path / "run"


def test_summary(capfd):
    code, out, err = run(main, ["summary", "dy_mobile"], capfd)
    assert (code, err) == (0, "")
    tables = [cells(table) for table in out.split("\n\n")]
    sums = {row[0]: row[1] for row in tables[2]}
    assert sums["convolutions"] == "129,262,392"
    assert sums["all but the classifier"] == "135,143,640"
    assert sums["all"] == "136,423,640"
    parts = ["129,262,392", "2,897,208", "2,984,040", "1,280,000"]
    assert tables[1][-1] == ["sum", "", "", *parts, "136,423,640", "7,617,320"]
    assert [row[3:5] for row in tables[4][2:]] == [["129", "129.26"], ["135", "135.14"], ["129", "129.26"]]


def test_summary_side_by_side(capfd):
    code, out, _ = run(main, ["summary", "resnet18", "dy_resnet18"], capfd)
    assert code == 0
    _, costs, _, paper = (cells(table) for table in out.split("\n\n"))
    assert [row[:4] for row in costs[2:]] == [
        ["resnet18", "224", "11,689,512", "1,813.56"],
        ["dy_resnet18", "224", "17,286,056", "577.22"],
    ]
    assert [row[1] for row in paper[2:]] == ["ResNet18", "Dy-ResNet18", "Dy-ResNet18"]


def test_summary_as_csv(capfd):
    code, out, _ = run(main, ["summary", "resnet18", "dy_resnet18", "--width=0.5", "--csv"], capfd)
    assert code == 0
    rows = list(csv.DictReader(out.splitlines()))
    assert [row["network"] for row in rows] == ["resnet18, width=0.5", "dy_resnet18, width=0.5"]
    assert [float(row["fusion_1e6"]) > 0 for row in rows] == [False, True]
    assert [row["paper"] for row in rows] == ["", ""]  # the paper says nothing of these

    code, out, _ = run(main, ["summary", "resnet18", "--csv"], capfd)
    layers = list(csv.DictReader(out.splitlines()))
    assert layers[0]["layer"] == "stem"
    assert sum(int(row["total"]) for row in layers[:-1]) == int(layers[-1]["total"]) == 1_814_073_344


@pytest.mark.slow
def test_summary_of_all(capfd):
    code, out, _ = run(main, ["summary", "--all"], capfd)
    assert code == 0
    _, costs, _, paper = (cells(table) for table in out.split("\n\n"))
    assert {row[0] for row in costs} >= set(list_models())
    assert {row[0] for row in paper[2:]} == {"1", "1 later", "3", "4"}
    results = (Path(__file__).parents[1] / "docs" / "results.md").read_text()
    assert out.rpartition("\n\n")[2].strip() in results
    everything = summary.cost_table([Subject(name, {}) for name in list_models()])
    columns = [(row[0], *row[2:8]) for row in everything.rows]
    everything = Table((everything.header[0], *everything.header[2:8]), columns, zeros="")
    assert everything.markdown() in results
    for name, label in (("dy_mobile", "Dy-mobile"), ("dy_resnet18", "Dy-ResNet18")):
        for group_size in (1, 2, 4, 6):
            c = Subject(name, {"group_size": group_size}).count
            sums = f"{c.convolution:,} | {c.total - c.classifier:,} | {c.total:,} | {c.parameters:,}"
            assert f"| {label}, g_t = {group_size} | {sums} |" in results


@pytest.mark.slow
def test_summary_of_another_size(capfd):
    arguments = ["summary", "dy_mobile", "--image-size=64", "--num-classes=10", "--width=0.5", "--group-size=2"]
    code, out, _ = run(main, [*arguments, "--small-input"], capfd)
    assert code == 0
    assert out.startswith("dy_mobile, num_classes=10, width=0.5, group_size=2, small_input=True, 64x64: ")
    assert "129,262,392" not in out


@pytest.mark.slow
def test_summary_of_any_argument(capfd):
    """Arguments are those of train.py. Without its hidden layer, a predictor of 32 channels has 32 rows."""
    arguments = [
        "summary",
        "dy_resnet18",
        "--config.model.hidden_divisor=None",
        "--config.model.zero_init_residual=false",
    ]
    code, out, err = run(main, arguments, capfd)
    assert (code, err) == (0, "")
    assert out.startswith("dy_resnet18, hidden_divisor=None, zero_init_residual=False, 224x224: ")
    assert "predictor/hidden" not in out
    for twice in (["--width=0.5", "--config.model.width=0.25"], ["--group-size=2", "--config.model.group_size=4"]):
        assert_one_line(run(main, ["summary", "dy_resnet18", *twice], capfd), "are the same; give one of them")
    unknown = run(main, ["summary", "dy_resnt18", "--config.model.hidden_divisor=4"], capfd)
    assert_one_line(unknown, "unknown model 'dy_resnt18'; did you mean")
    for mistake in ("--config.model.hiden_divisor=4", "--config.epochs=3", "--model.width=2", "--config.model.name=x"):
        assert_one_line(run(main, ["summary", "dy_resnet18", mistake], capfd), mistake.partition("=")[0].split(".")[-1])


@pytest.mark.parametrize("command", [main, train_main])
def test_help(command, capfd):
    code, out, err = run(command, ["--help"], capfd)
    assert (code, err) == (0, "")
    assert "usage: " in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["summary", "dy_mobil"], ["dynet: unknown model 'dy_mobil'; did you mean dy_mobile"]),
        (["summary", "mobilenet_v2", "--group-size=4"], ["mobilenet_v2 has no argument 'group_size'"]),
        (["summary", "dy_mobile", "--image-size=0"], ["--image-size must be positive, not 0"]),
        (["summary", "dy_mobile", "--image-size=big"], ["--image-size: invalid int value: 'big'", "--help"]),
        (["summary", "dy_mobile", "--num-classes=0"], ["num_classes", "0"]),
        (["summary", "dy_mobile", "--width=-1"], ["width must be a positive number"]),
        (["summary", "dy_mobile", "--group-size=0"], ["group_size must be a positive int"]),
        (["summary", "dy_mobile", "--colour"], ["cannot read '--colour'", "--help"]),
        (["summary"], ["name one or more models, or --all; the models are condconv_mobilenet_v2, "]),
        (["summary", "--all", "resnet18"], ["name one or more models, or --all"]),
        (["summary", "--all", "--width=0.5"], ["--all shows the networks as the paper has them"]),
        (["summary", "resnet18", "shufflenet_v2", "--width=0.75"], ["width must be one of ShuffleNetV2's 0.5, 1.0"]),
        (["summary", "resnet18", "--image-size=16"], ["images of 16x16 are too small for a network of stride 32"]),
        (["sumary", "dy_mobile"], ["invalid choice: 'sumary'", "summary"]),
        ([], ["required: COMMAND"]),
    ],
    ids=" ".join,
)
def test_mistakes_of_summary(arguments, parts, capfd):
    assert_one_line(run(main, arguments, capfd), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--networks=dy_mobil"], ["unknown model 'dy_mobil'; did you mean dy_mobile"]),
        (["--networks=fcn_resnet18"], ["fcn_resnet18 is a network for segmentation; classifiers are measured"]),
        (["--runtimes=onnx"], ["--runtimes has no 'onnx'; did you mean onnxruntime"]),
        (["--numbers=int8-bank"], ["--numbers has no 'int8-bank'; did you mean int8-banks"]),
        (["--threads=1000000"], ["--threads=1000000 is more than the "]),
        (["--threads=0"], ["--threads: '0' is not a positive number", "--help"]),
        (["--threads=1,1"], ["'1,1' is not a list like A,B, with each once"]),
        (["--image-size=16"], ["images of 16 px are too small for dy_mobile, of stride 32"]),
        (["--image-sizes=224,big"], ["'big' is not a positive number"]),
        (["--batch=1,,2"], ["'' is not a positive number"]),
        (["--batch=1,1000000"], ["--batch=1000000 is more than 4096 images"]),
        (["--numbers=int8-banks"], ["there is no runtime to measure: jax is not measured: it has float32 alone"]),
        (["--runs=none"], ["--runs: 'none' is not a positive number"]),
        (["--width=-1"], ["width must be a positive number"]),
        (["--networks=dy_shuffle", "--width=0.1"], ["width must be one of ShuffleNetV2's"]),
        (["--overwrite"], ["--overwrite is of the files in --out=DIR"]),
        (["--out="], ["an empty path"]),
    ],
    ids=" ".join,
)
def test_mistakes_of_benchmark(arguments, parts, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    out = [] if {"--overwrite", "--out="} & {*arguments} else ["--out=latency"]
    assert_one_line(run(main, ["benchmark", "--runtimes=jax", *out, *arguments], capfd), *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([CONFIG, "--config.epoch=3"], ["train.py: the configuration has no key 'epoch'; did you mean epochs"]),
        ([f"{CONFIG}:digits", "--config.epochs=many"], ["epochs must be float", "'many'"]),
        ([f"{CONFIG}:digits", "--config.batch_size=0"], ["batch_size must be positive, not 0"]),
        ([f"{CONFIG}:digits", "--config.batch_size=100"], ["batch_size=100 must be a multiple of 8"]),
        (
            [f"{CONFIG}:digits", "--config.batch_size=2048"],
            ["digits has 1438 training images, fewer than batch_size=2048"],
        ),
        ([f"{CONFIG}:digits", "--config.model.num_classes=5"], ["digits has 10 classes but model.num_classes is 5"]),
        ([f"{CONFIG}:digits", "--config.model.name=dy_mobil"], ["unknown model 'dy_mobil'; did you mean dy_mobile"]),
        ([f"{CONFIG}:digits", "--config.model.width=0"], ["model.width must be positive, not 0.0"]),
        ([f"{CONFIG}:digits", "--config.data.name=digit"], ["unknown dataset 'digit'; did you mean digits?"]),
        (
            [f"{CONFIG}:digits", "--config.data.name=folder:/nowhere"],
            ["there is no /nowhere/train", "PATH/train/CLASS"],
        ),
        (
            [f"{CONFIG}:digits", "--config.decay_parameters=no"],
            ["decay_parameters must be 'kernels' or 'all', not 'no'", "kernels"],
        ),
        (
            [f"{CONFIG}:digits", "--config.data.mean=[0.485,0.456,0.406]", "--config.data.std=[0.229,0.224,0.225]"],
            ["mean and std of pixels from 0 to 1", "use --config.data.mean=[123.675,116.28,103.53] --config.data.std="],
        ),
        ([f"{CONFIG}:digits", "--config.data.std=[1,1]"], ["data.std must be three positive numbers"]),
        ([f"{CONFIG}:digit"], ["unknown variant 'digit'", "did you mean digits?"]),
        (
            [CONFIG.replace("dy_mobile", "dy_mobil")],
            ["there is no configuration file", "did you mean", "dy_mobile.py"],
        ),
        (
            [f"{CONFIG}:digits", "--config.data.name=folder:gs://bucket/x"],
            ["gs://bucket/x is an address, not a folder", "docs/tpu.md", "packed:DIR"],
        ),
        ([CONFIG, "--config.data.data_dir=s3://bucket"], ["s3://bucket is not a supported address; use gs://"]),
        ([CONFIG, "--init_from=gs://bucket"], ["gs://bucket is a whole bucket; name a path in it"]),
        ([CONFIG, "--resume"], ["cannot read '--resume'; set a key as --config.KEY=VALUE"]),
        ([CONFIG, "--work=runs/x"], ["cannot read '--work=runs/x'"]),
        ([], ["required: --config"]),
    ],
    ids=lambda value: " ".join(value).replace(CONFIG, "CONFIG"),
)
def test_mistakes_of_training(arguments, parts, workdir, capfd):
    assert_one_line(run(train_main, [*arguments, f"--workdir={workdir}"], capfd), *parts)
    assert not workdir.exists()  # nothing was begun


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("s3://bucket/run", "s3://bucket/run is not a supported address; use gs://BUCKET/PATH"),
        ("gs://bucket", "gs://bucket is a whole bucket; name a path in it, like gs://bucket/runs/digits"),
        ("gs:///run", "names no bucket"),
    ],
)
def test_an_address_that_is_no_place_in_a_bucket_is_refused(address, part, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert_one_line(run(train_main, [f"{CONFIG}:digits", f"--workdir={address}"], capfd), part)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [True, False], ids=["data_dir", "home"])
def test_imagenet_is_missing(given, workdir, tmp_path, monkeypatch, capfd):
    """It says what is missing, how to prepare it, and what can be trained now."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ("prepared" if given else "tensorflow_datasets")
    data_dir = [f"--config.data.data_dir={folder}"] if given else []
    result = run(train_main, [CONFIG, f"--workdir={workdir}", *data_dir], capfd)
    assert_one_line(
        result,
        f"train.py: imagenet2012 is not prepared in {folder}. ",
        "pip install tensorflow-cpu",
        PREPARE["imagenet2012"].format(dir=folder),
        "python train.py --config=configs/dy_mobile.py:digits --workdir=runs/digits",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_work_directory_cannot_be_made(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/run"):
        result = run(
            train_main, [f"{CONFIG}:digits", "--config.batch_size=128", f"--workdir={tmp_path / place}"], capfd
        )
        assert_one_line(result, f"train.py: the work directory {tmp_path / place} cannot be written")


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_not_a_work_directory(command, tmp_path, capfd):
    (tmp_path / "image.png").write_bytes(b"never looked at")
    for place in (tmp_path, tmp_path / "nowhere"):
        arguments = [command, place, *([tmp_path / "image.png"] if command == "predict" else [])]
        assert_one_line(run(main, arguments, capfd), f"dynet: {place} is not a work directory of train.py")


def test_a_work_directory_that_has_no_checkpoint(tmp_path, capfd):
    from dynet_jax.config.load import load_config
    from dynet_jax.workdir.files import claim

    claim(tmp_path, load_config(f"{CONFIG.removeprefix('--config=')}:digits"), [str(digit) for digit in range(10)])
    (tmp_path / "labels.json").write_text(json.dumps([str(digit) for digit in range(10)]))
    assert_one_line(run(main, ["evaluate", tmp_path], capfd), "dynet: there is no checkpoint in", str(tmp_path))


def test_images_that_are_missing(tmp_path, capfd):
    missing = tmp_path / "no.jpg"
    assert_one_line(run(main, ["predict", tmp_path, missing], capfd), f"dynet: there is no image {missing}")
    (tmp_path / "empty").mkdir()
    result = run(main, ["predict", tmp_path, tmp_path / "empty"], capfd)
    assert_one_line(result, f"dynet: there are no images in {tmp_path / 'empty'}")
    assert_one_line(run(main, ["predict", tmp_path], capfd), "required: IMAGE")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "dynet: interrupted\n"),
        (PermissionError(13, "Permission denied", "runs/x"), 2, "dynet: Permission denied: runs/x\n"),
        (OSError(28, "No space left on device"), 2, "dynet: [Errno 28] No space left on device\n"),
    ],
)
def test_the_systems_errors(error, code, line, monkeypatch, capfd):
    def fail(*_):
        raise error

    monkeypatch.setattr("dynet_jax.analysis.summary.summarize", fail)
    assert run(main, ["summary", "dy_mobile"], capfd) == (code, "", line)


def test_a_bug_is_not_taken_for_a_mistake(monkeypatch, capfd):
    def fail(*_):
        raise ValueError("a bug")

    monkeypatch.setattr("dynet_jax.analysis.summary.summarize", fail)
    with pytest.raises(ValueError, match="a bug"):
        run(main, ["summary", "dy_mobile"], capfd)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "imagenet2012", "--archives=nowhere"], "--archives must be a folder that holds ILSVRC2012_img_tr"),
        (["prepare", "imagenet2012"], "--archives must be a folder that holds ILSVRC2012_img_train.tar"),
        (["prepare", "imagenet"], "did you mean imagenet2012?"),
    ],
)
def test_prepare_says_what_is_missing(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    if "TensorFlow" not in error:
        assert message in error


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_the_output_has_no_letters_for_are_printed(monkeypatch, encoding):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding))
    assert report_mistakes("dynet", lambda: print("caf\udce9.png", "\u0141")) == 0
    sys.stdout.flush()
    letter = {"utf-8": "\u0141", "ascii": r"\u0141"}[encoding]
    assert content.getvalue().decode(encoding) == f"caf\\udce9.png {letter}\n"
