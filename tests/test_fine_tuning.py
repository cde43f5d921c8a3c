"""The recipe of docs/training.md, from imported weights to an exported file, as it stands there."""

import re
import shlex
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from dynet_jax import create_model
from dynet_jax.cli import main, train_main
from dynet_jax.models.torch_weights import torch_tensors
from tests.models.torch_reference import make_weights

PAGE = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
# What makes it small: a narrow network, small images, two steps.
SMALL = {
    "import-torch": ["--width=0.125", "--labels=labels.txt", "--image-size=32", "--resize-to=32"],
    "train.py": [
        *("--config.model.width=0.125", "--config.data.image_size=32", "--config.data.resize_to=32"),
        *("--config.epochs=1", "--config.warmup_epochs=0", "--config.dtype=float32"),
    ],
}


def commands():
    (block,) = re.findall(r"```sh\n(dynet import-torch.*?)```", PAGE, re.DOTALL)
    return [shlex.split(line) for line in block.replace("\\\n", " ").strip().splitlines()]


@pytest.mark.slow
def test_the_recipe(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shapes = torch_tensors(create_model("resnet18", width=0.125, num_classes=4), "torchvision").values()
    save_file(make_weights({tensor.name: tensor.shape for tensor in shapes}), "resnet18.pth")
    Path("labels.txt").write_text("ape\ncat\ndog\nfox\n")
    rng = np.random.default_rng(0)
    for split, count in (("train", 22), ("val", 2)):
        for name in ("cat", "dog", "newt"):
            folder = Path("photos", split, name)
            folder.mkdir(parents=True)
            for index in range(count):
                cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (32, 32, 3), np.uint8))
    said = []
    for program, *arguments in commands():
        if program == "python":
            assert train_main([*arguments[1:], *SMALL["train.py"]]) == 0
        else:
            assert main([*arguments, *SMALL.get(arguments[0], [])]) == 0
        said.append(capfd.readouterr().out)
    assert [line.split("(")[0] for line in said[0].splitlines()][-1].startswith("176,")
    assert "(its classes by name: 2 of 3 were known, cat, dog; new: newt)" in said[1]
    assert "6 images | step 2" in said[2]
    exported = jax.export.deserialize(bytearray(Path("tuned.stablehlo").read_bytes()))
    assert exported.out_avals[0].shape[-1] == 3


def test_the_recipe_is_there():
    assert [words[:2] for words in commands()] == [
        ["dynet", "import-torch"],
        ["python", "train.py"],
        ["dynet", "evaluate"],
        ["dynet", "predict"],
        ["dynet", "export"],
    ]
