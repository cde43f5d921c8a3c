"""`dynet import-torch` makes a work directory that `evaluate` and `predict` take, and names what is in the way."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest

from dynet_jax import create_model, inference
from dynet_jax.cli import main
from dynet_jax.data.augment import center_crop
from dynet_jax.errors import UserError
from dynet_jax.import_torch import _tf_hint
from dynet_jax.models.torch_weights import create_from_torch, torch_tensors
from tests.bucket_server import bucket_server
from tests.models.torch_reference import make_weights

CLASSES = ("cat", "dog", "newt")


@pytest.fixture
def weights(tmp_path):
    model = create_model("resnet18", width=0.125, num_classes=len(CLASSES))
    state = make_weights({tensor.name: tensor.shape for tensor in torch_tensors(model, "torchvision").values()})
    np.savez(tmp_path / "weights.npz", **state)
    return state


@pytest.fixture
def images(tmp_path):
    """A folder of one noisy image per class, of different sizes."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(CLASSES):
        folder = tmp_path / "images" / "val" / name
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "image.png"), rng.integers(0, 256, (256 + 32 * i, 300, 3), np.uint8))
    return tmp_path / "images"


def import_weights(tmp_path, *arguments, model="resnet18", run=None):
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    command = ["import-torch", model, tmp_path / "weights.npz", run or tmp_path / "run", "--width=0.125", *arguments]
    return main([str(argument) for argument in command])


@pytest.mark.slow
@pytest.mark.parametrize("in_bucket", [False, True], ids=["folder", "bucket"])
def test_import_then_predict_and_evaluate(tmp_path, weights, images, capfd, in_bucket):
    bucket_server()
    run = f"gs://bucket/{tmp_path.name}/run" if in_bucket else str(tmp_path / "run")
    assert import_weights(tmp_path, f"--labels={tmp_path / 'labels.txt'}", run=run) == 0
    assert f"parameters in {run}" in capfd.readouterr().out
    assert import_weights(tmp_path, f"--labels={tmp_path / 'labels.txt'}", run=run) == 2
    assert f"{run} exists already" in capfd.readouterr().err

    image = images / "val" / "dog" / "image.png"
    assert main(["predict", run, str(image), "--json"]) == 0
    top = {row["class"]: row["probability"] for row in json.loads(capfd.readouterr().out)["top"]}
    model, variables = create_from_torch("resnet18", weights, width=0.125)
    pixels = center_crop(cv2.imread(str(image))[..., ::-1], 224, 256).astype(np.float32)
    normalised = (pixels - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    logits = model.apply(variables, normalised[None].astype(np.float32))
    expected = np.asarray(jax.nn.softmax(logits))[0]
    np.testing.assert_allclose([top[name] for name in CLASSES], expected, atol=1e-4)

    (images / "val").rename(images / "test")
    for name in CLASSES:
        (images / "train" / name).mkdir(parents=True)
    assert main(["evaluate", run, f"--data=folder:{images}", "--json"]) == 0
    values = json.loads(capfd.readouterr().out)
    assert (values["examples"], values["step"]) == (3, 0)

    assert main(["export", run, "--format=stablehlo"]) == 0  # into the work directory
    assert f"{run}/resnet18.stablehlo: " in capfd.readouterr().out
    assert main(["export", run, "--format=stablehlo"]) == 2
    assert f"{run}/resnet18.stablehlo is there already" in capfd.readouterr().err
    assert inference.load(run).class_names == list(CLASSES)


@pytest.mark.slow
def test_mistakes(tmp_path, weights, capfd):
    def answer(*arguments, **options):
        assert import_weights(tmp_path, *arguments, **options) == 2
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return err

    assert "the network has 3 classes; name them with --labels=FILE" in answer()
    assert f"there is no file of labels {tmp_path / 'no.txt'}" in answer(f"--labels={tmp_path / 'no.txt'}")
    labels = f"--labels={tmp_path / 'labels.txt'}"
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    assert "two.txt names 2 classes, but the network has 3" in answer(f"--labels={tmp_path / 'two.txt'}")
    assert "expected (16,): is the width right?" in answer(labels, "--width=0.25")
    assert "these are weights of another network" in answer(labels, model="mobilenet_v2")
    assert "unknown model 'resnet19'; did you mean resnet18" in answer(labels, model="resnet19")
    assert not (tmp_path / "run").exists()  # nothing is left behind
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    assert "run exists already; name a new directory" in answer(labels)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


@pytest.mark.slow
def test_preprocessing_and_what_was_taken_are_said(tmp_path, weights, capfd):
    raw = {f"model.{name}": array for name, array in weights.items()}
    averages = {f"ema_model.module.{name}": array for name, array in weights.items()}
    np.savez(tmp_path / "weights.npz", **raw, **averages)
    labels = f"--labels={tmp_path / 'labels.txt'}"
    assert import_weights(tmp_path, labels, "--mean=0.5", "--std=0.5,0.5,0.25", "--image-size=288") == 0
    taken, images, _ = capfd.readouterr().out.splitlines()
    assert taken == "weights: the moving averages 'ema_model.module'; --state-dict=model takes 'model' instead"
    assert images.startswith(
        "images: shorter side 329 px, central 288 px, mean 127.5 127.5 127.5 and std 127.5 127.5 63.75"
    )
    data = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (data["std"], data["image_size"], data["resize_to"]) == ([127.5, 127.5, 63.75], 288, 329)


@pytest.mark.slow
def test_weights_that_do_not_fit_name_the_others_of_the_file(tmp_path, weights, capfd):
    averages = {f"ema.{name}": array for name, array in weights.items() if name != "fc.bias"}
    np.savez(tmp_path / "weights.npz", **{f"model.{name}": array for name, array in weights.items()}, **averages)
    assert import_weights(tmp_path, f"--labels={tmp_path / 'labels.txt'}") == 2
    err = capfd.readouterr().err
    assert "missing: fc.bias (weights: the moving averages 'ema'; --state-dict=model takes 'model' instead)" in err


def test_a_file_that_is_named_like_a_port_is_asked_about():
    state, network = {"conv_stem.weight": None}, SimpleNamespace(padding="TORCH")
    assert "need --padding=SAME" in _tf_hint(Path("tf_mobilenetv3_small_100.bin"), network, state)[0]
    assert "need --padding=SAME" in _tf_hint(Path("timm/tf_mobilenetv3/model.safetensors"), network, state)[0]
    assert _tf_hint(Path("mobilenetv3_small_100.bin"), network, state) == []
    assert _tf_hint(Path("tf_mobilenetv3.bin"), SimpleNamespace(padding="SAME"), state) == []


@pytest.mark.slow
def test_weights_that_are_not_finite_are_refused(tmp_path, weights, capfd):
    weights["layer3.0.conv1.weight"][0, 0, 0, 0] = np.nan
    np.savez(tmp_path / "weights.npz", **weights)
    assert import_weights(tmp_path, f"--labels={tmp_path / 'labels.txt'}") == 2
    assert "layer3.0.conv1.weight holds 1 values that are not finite, such as nan" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mean=0.5"], "--mean and --std go together"),
        (["--mean=0.4,0.5", "--std=1"], "'0.4,0.5' is not a number, or three like 0.485,0.456,0.406"),
        (["--mean=nan", "--std=1"], "'nan' is not a number"),
        (["--mean=0.5", "--std=0"], "--std must be positive, not 0"),
        (
            ["--mean=123.675,116.28,103.53", "--std=0.229,0.224,0.225"],
            "use --mean=[123.675,116.28,103.53] --std=[58.395",
        ),
        (["--mean=0.229,0.224,0.225", "--std=0.485,0.456,0.406"], "mean and std exchanged"),
        (["--image-size=224", "--resize-to=200"], "--resize-to=200 is less than --image-size=224"),
        (["--padding=VALID"], "invalid choice: 'VALID'"),
    ],
)
def test_preprocessing_that_cannot_be_meant(arguments, message, tmp_path, capfd):
    try:
        code = import_weights(tmp_path, *arguments)
    except SystemExit as stop:  # of argparse
        code = stop.code
    out, err = capfd.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "std", "said"),
    [
        (
            ["--mean=0", "--std=1"],
            255,
            "is taken as of pixels from 0 to 1; for those from 0 to 255, use --std=1.000001",
        ),
        (["--mean=0", "--std=1.000001"], 1.000001, ""),
        (["--mean=0", "--std=255"], 255, ""),
        (["--mean=123.68,116.779,103.939", "--std=1"], 1, "--std=[1,1,1] leaves pixels of up to 255 undivided"),
    ],
)
def test_what_is_unusual_is_taken_and_said(arguments, std, said, monkeypatch, capfd):
    taken = {}
    monkeypatch.setattr("dynet_jax.import_torch.import_torch", lambda *_, data, **__: taken.update(data) or [])
    assert main(["import-torch", "resnet18", "weights.npz", "run", *arguments]) == 0
    err = capfd.readouterr().err
    assert (taken["std"], said in err, bool(err)) == ((std,) * 3, True, bool(said))


def test_imagenets_classes_are_the_default():
    from dynet_jax.import_torch import _class_names

    names = _class_names(None, 1000)
    assert (len(names), names[0], names[-1]) == (1000, "n01440764", "n15075141")


def test_labels_in_other_encodings(tmp_path):
    from dynet_jax.import_torch import _class_names

    (tmp_path / "labels.txt").write_bytes("cat\r\ncafé\r\n".encode("utf-8-sig"))
    assert _class_names(tmp_path / "labels.txt", 2) == ["cat", "café"]
    (tmp_path / "labels.txt").write_bytes(b"crane\n\ncrane\n\n")
    assert _class_names(tmp_path / "labels.txt", 2) == ["crane", "crane"]
    (tmp_path / "labels.txt").write_bytes("cat\ncafé\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"labels.txt is not a text in UTF-8 \(line 2\); save it as UTF-8"):
        _class_names(tmp_path / "labels.txt", 2)
