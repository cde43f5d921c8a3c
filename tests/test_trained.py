"""A work directory opened without any training code: one network for every command and all kinds of pictures."""

import json
import subprocess
import sys
from unittest import mock

import chex
import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dynet_jax.cli import main
from dynet_jax.config.recipe import segmentation_recipe
from dynet_jax.data.augment import center_crop, resize
from dynet_jax.errors import UserError
from dynet_jax.inference import load
from dynet_jax.layers import BatchNorm
from dynet_jax.models import registry
from dynet_jax.ops.pixels import normalize
from dynet_jax.predict import predict_images
from dynet_jax.trained import open_trained
from dynet_jax.workdir.checkpoint import Checkpoints
from tests.analysis.workdirs import DIGITS, digits_workdir, register, save_untrained
from tests.data.maps import CLASSES, write_maps
from tests.train.saved import load_workdir
from tests.train.tiny_segmentation import tiny_fcn


@pytest.fixture(scope="module", autouse=True)
def registered():
    with mock.patch.dict(registry._MODELS):
        register()
        registry._MODELS["tiny_fcn"] = registry.Registered("tiny_fcn", tiny_fcn, task="segmentation")
        registry._MODELS["sorting"] = registry.Registered("sorting", Sorting)
        yield


class Sorting(nn.Module):
    """A network with an operation that programs do not have."""

    num_classes: int = 10
    remat: bool = False
    bn_batch_size: int | None = None
    bn_axis_name: str | None = None
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        x = jnp.sort(nn.Conv(8, (3, 3), strides=4)(images), axis=-1)
        return nn.Dense(self.num_classes)(BatchNorm(use_running_average=not train)(x).mean((1, 2)))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A work directory of 'tiny', with random statistics and weights, and different moving averages."""
    return randomised(digits_workdir(tmp_path_factory.mktemp("runs") / "tiny", "tiny"))


def randomised(folder, step=1, ema=False):
    """One more checkpoint, of step `step`."""
    _, state = load_workdir(folder, jax.devices()[:1])
    rng = np.random.default_rng(step)

    def random(leaf):
        return jnp.asarray(np.abs(leaf + 0.4 * rng.normal(size=leaf.shape)), leaf.dtype)

    state = state.replace(step=jnp.int32(step), params=jax.tree.map(random, state.params))
    checkpoints = Checkpoints(folder)
    checkpoints.save(state, wait=True)
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (37, 52, 3), np.uint8)


def by_the_module(network, image, size=16, resize_to=16):
    """Probabilities of one picture, by the Flax module and the evaluation's own crop."""
    images = normalize(center_crop(image, size, resize_to)[None], network.config.data.mean, network.config.data.std)
    return np.asarray(nn.softmax(network.model.apply(network.variables, images, train=False)))[0]


def assert_alike(top, wanted):
    """Batches of other sizes are other programs, which round differently."""
    assert [name for name, _ in top] == [name for name, _ in wanted]
    np.testing.assert_allclose([p for _, p in top], [p for _, p in wanted], rtol=1e-3)


ALONE = """
import sys
import optax
made = []
for name in ("sgd", "trace", "chain", "adamw"):
    setattr(optax, name, lambda *a, name=name, **k: made.append(name))
from tests.analysis.workdirs import digits_images
from dynet_jax.models import registry
from tests.train.tiny import tiny_network
tiny = lambda num_classes=10: tiny_network(num_classes, strides=2, group_size=3)
registry._MODELS["tiny"] = registry.Registered("tiny", tiny)
for name in [name for name in sys.modules if name.startswith("dynet_jax.train")]:
    del sys.modules[name]  # what the lines above import
from dynet_jax import inference
from dynet_jax.cli import main
workdir, photo, out = sys.argv[1:]
assert inference.load(workdir, runtime="jax").runtime == "jax"
for command in (["predict", workdir, photo, "--runtime=jax"], ["evaluate", workdir],
                ["evaluate", workdir, "--coefficients=half"], ["correlate", workdir, "--images=20"],
                ["export", workdir, "--format=stablehlo", f"--out={out}"]):
    assert main(command) == 0, command
strangers = [name for name in sys.modules if name.split(".")[:2] == ["dynet_jax", "train"]]
assert not strangers and not made, (strangers, made)
"""


@pytest.mark.slow
def test_commands_know_nothing_of_training(workdir, picture, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), picture)
    command = [sys.executable, "-c", ALONE, str(workdir), str(tmp_path / "photo.png"), str(tmp_path / "x.stablehlo")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_the_variables_are_those_that_training_restores(workdir):
    network, (run, state) = open_trained(workdir), load_workdir(workdir, jax.devices()[:1])
    assert (network.name, network.step, network.class_names) == ("tiny", 1, DIGITS)
    assert network.config.to_dict() == run.config.to_dict()
    chex.assert_trees_all_equal(network.variables, jax.device_get(state.variables))
    assert open_trained(workdir, step=0).step == 0


@pytest.mark.slow
def test_moving_averages_are_taken_where_there_are_some(tmp_path):
    workdir = digits_workdir(tmp_path / "run", "tiny")
    config = json.loads((workdir / "config.json").read_text()) | {"ema_decay": 0.9}
    (workdir / "config.json").write_text(json.dumps(config))
    run, _ = None, None
    from dynet_jax.devices import make_layout
    from dynet_jax.train.setup import make_run
    from dynet_jax.workdir.files import read_config

    run = make_run(read_config(workdir), 64, make_layout(1, 1, devices=jax.devices()[:1]))
    state = run.fresh_state()
    state = state.replace(step=jnp.int32(5), ema=jax.tree.map(lambda leaf: leaf + 1, state.variables))
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state, wait=True)
    checkpoints.close()
    chex.assert_trees_all_equal(open_trained(workdir).variables, jax.device_get(state.ema))


@pytest.mark.slow
def test_another_network_and_damage_are_named(tmp_path, capsys):
    workdir = randomised(digits_workdir(tmp_path / "run", "tiny"))
    (largest,) = sorted((workdir / "checkpoints/1/state").rglob("d/*"), key=lambda path: path.stat().st_size)[-1:]
    content = bytearray(largest.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    largest.write_bytes(content)
    network = open_trained(workdir)
    assert network.step == 0
    assert "checkpoints/1 is damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"checkpoints/1 is damaged: .*; other steps: 0"):
        open_trained(workdir, step=1)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["name"] = "tiny_static"
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is of another model"):
        open_trained(workdir, step=0)
    with pytest.raises(UserError, match="so none is the best; leave out --step"):
        open_trained(workdir, step="best")


def test_the_best_step(tmp_path):
    workdir = randomised(digits_workdir(tmp_path / "run", "tiny"))
    rows = [{"step": step, "kind": "test", "top1": top1} for step, top1 in ((0, 0.7), (1, 0.5))]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (open_trained(workdir, step="best").step, open_trained(workdir).step) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["native", "jax"])
def test_pictures_of_every_kind_are_predicted_alike(workdir, picture, tmp_path, runtime):
    model, wanted = load(workdir, runtime=runtime), by_the_module(open_trained(workdir), picture)
    cv2.imwrite(str(tmp_path / "photo.png"), picture[..., ::-1])
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    one = model.predict(picture)
    assert [name for name, _ in one.top] == [DIGITS[index] for index in np.argsort(-wanted, kind="stable")[:5]]
    np.testing.assert_allclose([p for _, p in one.top], np.sort(wanted)[:-6:-1], rtol=1e-3)
    photo = tmp_path / "photo.png"
    same = model.predict([photo, str(photo), picture, Image.fromarray(picture)])
    assert [result.path for result in same] == [photo, photo, None, None]
    for result in (*same, *model.predict(np.stack([picture] * 2)), *predict_images(workdir, [photo], runtime=runtime)):
        assert_alike(result.top, one.top)
    broken, whole = model.predict(tmp_path, count=1)
    assert (broken.path.name, broken.top) == ("broken.jpg", [])
    assert "broken.jpg is not an image" in broken.error
    assert_alike(whole.top, one.top[:1])


def test_many_pictures_are_more_than_a_batch(workdir):
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (20 + n % 9, 30, 3), np.uint8) for n in range(150)]
    results = load(workdir).predict(pictures, count=10)
    network = open_trained(workdir)
    for index in (0, 31, 32, 149):
        wanted = by_the_module(network, pictures[index])
        np.testing.assert_allclose([p for _, p in results[index].top], np.sort(wanted)[::-1], rtol=1e-3)


def test_mistakes_in_pictures(workdir, picture, tmp_path):
    model = load(workdir, runtime="jax")
    for wrong, message in (
        (picture.astype(np.float32), r"\[height, width, 3\] uint8, not \(37, 52, 3\) float32"),
        ([picture[..., 0]], r"\[height, width, 3\] uint8, not \(37, 52\)"),
        ([7], "a path, an array or a Pillow image, not a int"),
        (tmp_path / "missing.jpg", "there is no image"),
        ([tmp_path], "there are no images in"),
    ):
        with pytest.raises(UserError, match=message):
            model.predict(wrong)


def test_pillow_images_of_other_modes(workdir, picture):
    model, image = load(workdir, runtime="jax"), Image.fromarray(picture)
    gray = np.asarray(image.convert("L"))
    as_rgb = model.predict(np.repeat(gray[..., None], 3, axis=2))
    for mode in (Image.fromarray(gray), Image.fromarray(gray.astype(np.uint16) * 256 + 99), image.convert("LA")):
        assert model.predict(mode).top == as_rgb.top
    turned = image.copy()
    turned.getexif()[274] = 6  # to be turned by 90 degrees, clockwise
    assert model.predict(turned).top == model.predict(np.ascontiguousarray(np.rot90(picture, -1))).top


@pytest.mark.slow
def test_a_network_that_programs_cannot_express_is_run_as_it_is(tmp_path, picture, capsys):
    from dynet_jax.config.recipe import paper_recipe

    config = paper_recipe("sorting").unlock()
    config.model = {"name": "sorting", "num_classes": 10}
    config.data.update({"name": "digits", "image_size": 16, "resize_to": 16})
    config.dtype, config.batch_size = "float32", 64
    workdir = save_untrained(tmp_path / "run", config.lock(), DIGITS)
    model = load(workdir)
    assert capsys.readouterr().err.count("\n") == 1
    assert (model.runtime, model.program) == ("jax", None)
    wanted = by_the_module(open_trained(workdir), picture)
    np.testing.assert_allclose([p for _, p in model.predict(picture, count=10).top], np.sort(wanted)[::-1], rtol=1e-4)
    for options in ({"runtime": "native"}, {"storage": "int8"}):
        with pytest.raises(UserError, match="which programs do not have"):
            load(workdir, **options)
    assert main(["export", str(workdir), "--format=onnx", f"--out={tmp_path / 'x'}"]) == 2
    assert "'sort', which programs do not have" in capsys.readouterr().err
    assert main(["export", str(workdir), "--format=stablehlo", f"--out={tmp_path / 'x'}"]) == 0
    assert "the Flax module is exported as it is: " in capsys.readouterr().err
    exported = jax.export.deserialize(bytearray((tmp_path / "x").read_bytes()))
    for size in ((3, 16, 16, 3), (1, 20, 24, 3)):
        pixels = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
        np.testing.assert_allclose(exported.call(pixels)["logits"], model.logits(pixels), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def maps_workdir(tmp_path_factory):
    root = tmp_path_factory.mktemp("maps")
    write_maps(root, {"train": [(40, 48)] * 8, "val": [(40, 48), (33, 61)]})
    config = segmentation_recipe("tiny_fcn").unlock()
    config.model = {"name": "tiny_fcn", "num_classes": 3, "remat": True}
    config.data.update({"name": f"maps:{root}", "crop_size": (32, 32), "eval_size": (40, 48), "label_size": (64, 64)})
    config.dtype = "float32"
    return randomised(save_untrained(tmp_path_factory.mktemp("runs") / "fcn", config.lock(), CLASSES))


def logits_of_maps(network, images):
    data = network.config.data
    return np.asarray(network.model.apply(network.variables, normalize(images, data.mean, data.std), train=False))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["native", "jax"])
def test_segmentation_is_loaded_like_a_classifier(maps_workdir, picture, runtime):
    model, network = load(maps_workdir, runtime=runtime), open_trained(maps_workdir)
    images = np.random.default_rng(2).integers(0, 256, (5, 40, 56, 3), np.uint8)
    wanted = logits_of_maps(network, images)
    assert wanted.shape == (5, 10, 14, 3)
    np.testing.assert_allclose(model.logits(images), wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(model(images).sum(axis=-1), 1, atol=1e-5)
    small = logits_of_maps(network, resize(picture, 40, 48)[None])[0]
    large = np.stack([cv2.resize(small[..., index], (52, 37)) for index in range(3)], axis=-1)
    result = model.predict(picture)
    assert np.mean(result.classes == large.argmax(axis=-1)) > 0.999
    np.testing.assert_array_equal(result.image, picture)


def test_segmentation_in_windows(maps_workdir, picture, tmp_path):
    """Logits are averaged as in the task's own evaluation."""
    config = json.loads((maps_workdir / "config.json").read_text()) | {"inference": "slide"}
    network = open_trained(maps_workdir)
    with network.config.unlocked():
        network.config.inference = "slide"
    pixels = normalize(resize(picture, 40, 48)[None], network.config.data.mean, network.config.data.std)
    maps = network.task.logits(lambda x: network.model.apply(network.variables, x, train=False), pixels)
    wanted = np.stack([cv2.resize(np.asarray(maps)[0, ..., index], (52, 37)) for index in range(3)], axis=-1)
    before = (maps_workdir / "config.json").read_text()
    try:
        (maps_workdir / "config.json").write_text(json.dumps(config))
        found = load(maps_workdir).predict(picture).classes
    finally:
        (maps_workdir / "config.json").write_text(before)
    assert np.mean(found == wanted.argmax(axis=-1)) > 0.999


@pytest.mark.slow
def test_segmentation_is_exported(maps_workdir, tmp_path):
    """Logits at the network's stride, in both formats, for images of other sizes than it was recorded with."""
    import onnxruntime

    images = np.random.default_rng(2).integers(0, 256, (2, 40, 56, 3), np.uint8)
    wanted, files = logits_of_maps(open_trained(maps_workdir), images), {}
    for format in ("onnx", "stablehlo"):
        files[format] = tmp_path / f"x.{format}"
        assert main(["export", str(maps_workdir), f"--format={format}", f"--out={files[format]}"]) == 0
    session = onnxruntime.InferenceSession(files["onnx"])
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    outputs = jax.export.deserialize(bytearray(files["stablehlo"].read_bytes())).call(images)
    for found in (logits, outputs["logits"]):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(probabilities, outputs["probabilities"], atol=1e-4)
    notes = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    assert notes["size"] == [40, 48]
    assert json.loads(bytes(np.asarray(outputs["metadata"])))["class_names"] == CLASSES


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["val", "."])
def test_evaluation_on_some_of_the_classes(workdir, tmp_path, capsys, layout):
    """The share of right predictions, by the module, whatever numbers the classes have in their folder."""
    network, right = open_trained(workdir), []
    for name, number in (("7", 0), ("3", 1), ("7", 2), ("9", 3)):
        image = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        (tmp_path / layout / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / layout / name / f"{number}.png")
        right.append(network.class_names[by_the_module(network, image).argmax()] == name)
    image = np.random.default_rng(9).integers(0, 256, (16, 16, 3), np.uint8)
    best = by_the_module(network, image).argmax()
    (tmp_path / layout / str(best)).mkdir(exist_ok=True)  # so that one is right
    Image.fromarray(image).save(tmp_path / layout / str(best) / "9.png")
    assert main(["evaluate", str(workdir), f"--data=folder:{tmp_path}", "--json"]) == 0
    said = capsys.readouterr()
    values = json.loads(said.out)
    assert (values["examples"], values["top1"]) == (5, pytest.approx((sum(right) + 1) / 5))
    assert "data: 10 classes, 5 " in said.err
    (tmp_path / layout / "ten").mkdir()
    Image.fromarray(image).save(tmp_path / layout / "ten/0.png")
    assert main(["evaluate", str(workdir), f"--data=folder:{tmp_path}"]) == 2
    assert f"has classes that {workdir} was not trained on: ten; choose from: 0, 1" in capsys.readouterr().err


@pytest.mark.slow
def test_an_evaluation_is_the_same_with_any_batch(workdir, capfd):
    said = []
    for batch in ([], ["--batch=1"], ["--batch=100"]):
        assert main(["evaluate", str(workdir), "--json", *batch]) == 0
        said.append(json.loads(capfd.readouterr().out))
    assert said[0]["examples"] == 359
    for values in said[1:]:
        assert values == pytest.approx(said[0], rel=1e-4)
