"""The recipes of CONTRIBUTING.md: a contributor's own files, outside the package, in every command."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.quick_compilation import flags

ROOT = Path(__file__).parents[1]
SECONDS = 600
OPTIONS = "--config.batch_size=16 --config.bn_batch_size=16 --config.warmup_epochs=0 --config.model.width=0.25"


def code_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run(command: str, folder: Path, code: int = 0, **environment: str) -> tuple[str, str]:
    """The output and the errors of a command line, as a user would start it in this folder."""
    programs = {"train.py": [str(ROOT / "train.py")], "dynet": ["-m", "dynet_jax.cli"]}
    program, *arguments = command.split()
    environment = {**os.environ, "XLA_FLAGS": flags(devices=1), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, *programs[program], *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """my_networks.py, the family of docs/own_networks.md with one block; stripes.py, the dataset of CONTRIBUTING.md."""
    folder = tmp_path_factory.mktemp("own")
    family = code_of("docs/own_networks.md")[0].partition("model = create_model(")[0]
    (folder / "my_networks.py").write_text(family.replace("((32, 2), (64, 2), (128, 2))", "((32, 1),)"))
    (folder / "stripes.py").write_text(code_of("CONTRIBUTING.md")[0])
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """A work directory of the family, trained on the dataset that a worker process reads."""
    imports = "--import=my_networks.py --import=stripes.py"
    data = "--config.data.name=stripes --config.data.workers=1 --config.model.num_classes=2 --config.epochs=6"
    run(f"train.py {imports} --config=dy_separable:digits --workdir=run {data} {OPTIONS}", folder)
    return "run"


@pytest.mark.slow
def test_a_dataset_is_trained_on_and_a_network_is_evaluated(folder, trained):
    output, _ = run(f"dynet evaluate {trained} --json --import=my_networks.py --import=stripes.py", folder)
    values = json.loads(output)
    assert values["examples"] == 64
    assert values["top1"] > 0.9  # chance: 0.5


@pytest.mark.slow
def test_a_network_predicts(folder, trained):
    rows = np.repeat(np.random.default_rng(0).integers(0, 256, (16, 1, 3), np.uint8), 16, axis=1)
    cv2.imwrite(str(folder / "horizontal.png"), rows)
    cv2.imwrite(str(folder / "vertical.png"), rows.swapaxes(0, 1))
    command = f"dynet predict {trained} horizontal.png vertical.png --json"
    output, _ = run(command, folder, DYNET_JAX_IMPORT="my_networks.py")
    top = [json.loads(line)["top"][0]["class"] for line in output.splitlines()]
    assert top == ["horizontal", "vertical"]


@pytest.mark.slow
def test_a_work_directory_says_which_import_is_missing(folder, trained):
    path = folder.resolve()
    expected = (
        f"dynet: unknown model 'dy_separable'; {trained} was made with --import={path / 'my_networks.py'} "
        f"--import={path / 'stripes.py'}; add it\n"
    )
    assert run(f"dynet evaluate {trained}", folder, code=2) == ("", expected)
    _, error = run(f"dynet evaluate {trained} --import=my_networks.py", folder, code=2)
    assert (
        error == f"dynet: unknown dataset 'stripes'; {trained} was made with --import={path / 'stripes.py'}; add it\n"
    )


@pytest.mark.slow
def test_a_family_has_its_costs_and_its_latency_beside_its_base(folder):
    output, _ = run("dynet summary --import=my_networks.py dy_separable separable --csv", folder)
    assert [line.split(",")[0].strip('"') for line in output.splitlines()[1:]] == ["dy_separable", "separable"]
    options = "--runs=1 --threads=1 --runtimes=jax --image-sizes=32 --width=0.25"
    output, _ = run(f"dynet benchmark --import=my_networks.py dy_separable separable {options}", folder)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line[:1] == "|"]
    pair, alone = (next(row for row in rows if row[0] == name) for name in ("dy_separable", "separable"))
    assert pair[4] == "separable"
    assert float(pair[2]) > 0 < float(pair[5])
    assert pair[7] != ""  # how many times as fast
    assert float(alone[2]) > 0
    assert alone[4:8] == ["", "", "", ""]


@pytest.mark.slow
def test_a_family_is_an_experiment(folder):
    command = "dynet reproduce --import=my_networks.py --networks=dy_separable --dataset=digits --out=plan --seeds=1"
    tiny = "--config.epochs=0.1 --config.warmup_epochs=0 --config.model.small_input=true"
    output, _ = run(f"{command} --dry-run {tiny}", folder)
    assert [line.split("|")[1:3] for line in output.splitlines()[2:]] == [
        [" dy_separable-w0.25-g6 ", " networks "], [" separable-w0.25    ".ljust(23), " networks "],
    ]  # fmt: skip
    run(f"{command} {tiny}", folder)
    report = (folder / "plan/report.md").read_text()
    assert "Other networks beside their bases and fixed twins" in report
    assert f"--import={folder.resolve() / 'my_networks.py'} --networks=dy_separable" in report
    assert "Dy-separable (0.25), g_t = 6 - Separable (0.25)" in report


@pytest.mark.slow
def test_omni_dimensional_dynamic_convolution():
    """Every kernel by the equation of Li et al. (2022), one image after the other."""
    names = {}
    exec(code_of("CONTRIBUTING.md")[1], names)
    layer, x = names["ODConv"](features=5, group_size=3), jax.random.normal(jax.random.key(0), (2, 6, 7, 4))
    y, variables = layer.init_with_output(jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
                          variables["params"])  # fmt: skip
    y = layer.apply({"params": params}, x)

    def dense(name, values):
        return values @ params[name]["kernel"] + params[name]["bias"]

    for image, found in zip(x, y):
        hidden = jnp.maximum(dense("hidden", image.mean((0, 1))), 0)
        spatial, channel, filters = (jax.nn.sigmoid(dense(name, hidden)) for name in ("spatial", "channel", "filter"))
        factors = spatial.reshape(3, 3, 1, 1) * channel[:, None] * filters
        weights = jax.nn.softmax(dense("kernel", hidden))
        kernel = sum(weight * factors * kernel for weight, kernel in zip(weights, params["kernels"]))
        dimensions = ("NHWC", "HWIO", "NHWC")
        wanted = lax.conv_general_dilated(image[None], kernel, (1, 1), "SAME", dimension_numbers=dimensions)
        chex.assert_trees_all_close(found, wanted[0], rtol=1e-4, atol=1e-4)
