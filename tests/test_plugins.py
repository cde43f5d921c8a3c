"""--import, DYNET_JAX_IMPORT and entry points: what is imported, and the messages if that fails."""

import importlib.metadata
import os
import sys
from copy import copy

import pytest

from dynet_jax import plugins
from dynet_jax.analysis import runtimes
from dynet_jax.data import list_datasets, load_source, source
from dynet_jax.errors import UserError
from dynet_jax.export import formats
from dynet_jax.models.registry import create_model, list_models, model_info

NETWORK = """
from dynet_jax import register_model
from dynet_jax.models.mobilenet import mobilenet_v2

@register_model(title="Mine", base="mobilenet_v2")
def mine(num_classes: int = 10, width: float = 0.1):
    return mobilenet_v2(num_classes, width)
"""


@pytest.fixture(autouse=True)
def undone(monkeypatch, tmp_path):
    """Removes imports and registrations afterwards; the root's conftest.py restores the networks."""
    monkeypatch.setattr(plugins, "_imported", [])
    monkeypatch.setattr(plugins, "_missing", {})
    monkeypatch.setattr(source, "_DATASETS", copy(source._DATASETS))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(plugins.VARIABLE, "")
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_file_registers_a_network(tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    plugins.import_plugins(["nets_of_mine.py", str(tmp_path / "nets_of_mine.py")])
    assert create_model("mine").num_classes == 10
    info = model_info("mine")
    assert (info.title, info.base, info.family, info.task) == ("Mine", "mobilenet_v2", "mobilenet_v2", "classification")
    assert plugins.imported_plugins() == [str(tmp_path / "nets_of_mine.py")]
    assert os.environ[plugins.VARIABLE] == str(tmp_path / "nets_of_mine.py")


REGISTRATIONS = """
from dynet_jax.analysis.runtimes import register_runtime
from dynet_jax.export.formats import register_export_format

@register_export_format("name_alone", help="the name")
def write(model, network):
    return network.encode()

@register_runtime("runtime_of_mine")
def prepare(cell):
    '''It gives the images back.'''
    return lambda images: images
"""


def test_formats_and_runtimes_of_the_environment_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_FORMATS", copy(formats._FORMATS.everything()))
    monkeypatch.setattr(runtimes, "RUNTIMES", copy(runtimes.RUNTIMES.everything()))
    (tmp_path / "more_of_mine.py").write_text(REGISTRATIONS)
    monkeypatch.setattr(plugins, "_loaded", False)
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "more_of_mine.py"))
    assert formats.export_format("name_alone").help == "the name"
    assert runtimes.RUNTIMES.find("runtime_of_mine").name == "runtime_of_mine"


def test_the_environment_and_entry_points_name_modules(tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text(NETWORK)
    (tmp_path / "data_of_mine.py").write_text(
        "from dynet_jax.data import load_source, register_dataset\n"
        "@register_dataset('few:PATH')\n"
        "def few(split, data_dir, path):\n"
        "    return [split, data_dir, path.name]\n"
    )
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "nets_of_mine.py"))
    sys.path.append(str(tmp_path))
    entry = importlib.metadata.EntryPoint("data", "data_of_mine", plugins.GROUP)
    asked = []
    monkeypatch.setattr(plugins.importlib.metadata, "entry_points", lambda group: asked.append(group) or [entry])
    monkeypatch.setattr(plugins, "_loaded", False)
    assert "mine" in list_models()
    assert asked == ["dynet_jax.plugins"]
    assert "few:PATH" in list_datasets("classification")
    assert load_source("few:a/b", "train", "dir") == ["train", "dir", "b"]
    with pytest.raises(UserError, match="unknown dataset 'few'; did you mean few:PATH"):
        load_source("few", "train")
    with pytest.raises(UserError, match="a network for segmentation needs one of camvid:PATH, cityscapes, maps:PATH"):
        load_source("few:a", "train", task="segmentation")


def test_an_installed_package_that_is_broken(monkeypatch):
    entry = importlib.metadata.EntryPoint("broken", "no_such_package_of_mine", plugins.GROUP)
    monkeypatch.setattr(plugins.importlib.metadata, "entry_points", lambda group: [entry])
    monkeypatch.setattr(plugins, "_loaded", False)
    with pytest.raises(UserError, match="no_such_package_of_mine cannot be imported as a plug-in: ModuleNotFoundError"):
        list_models()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nets_1.py", "x = 1\nprint(y)\n", "nets_1.py cannot be imported: line 2: NameError: name 'y' is not defined"),
        ("nets_2.py", "def f(:\n", "nets_2.py cannot be imported: line 1: SyntaxError: invalid syntax"),
        ("nets_3.py", "import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "nets_4.py",
            NETWORK.replace("mine", "resnet18"),
            "line 5: ValueError: a model named 'resnet18' is",
        ),
        (
            "nets_5.py",
            "from dynet_jax.data import register_dataset\nregister_dataset('folder:DIR')(len)\n",
            "line 2: ValueError: a dataset named 'folder' is registered already",
        ),
        ("random.py", "", "cannot be imported as 'random', which is another module; rename the file"),
        ("nowhere.py", None, "there is no Python file .*nowhere.py"),
        ("nets_6.txt", "", "there is no Python file .*nets_6.txt"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        plugins.import_plugins([str(tmp_path / name)])
    assert "\n" not in str(caught.value)
    assert plugins.imported_plugins() == []


def test_a_module_that_is_not_installed():
    with pytest.raises(UserError, match=r"no module 'networks_that_nobody_has'; name a file as my_networks\.py"):
        plugins.import_plugins(["networks_that_nobody_has"])


def test_a_base_that_is_no_network(tmp_path):
    (tmp_path / "nets_7.py").write_text(NETWORK.replace('base="mobilenet_v2"', 'base="mobilenet_v22"'))
    plugins.import_plugins([str(tmp_path / "nets_7.py")])
    with pytest.raises(UserError, match="mine is registered with base='mobilenet_v22', not a network; did you mean"):
        model_info("mine")


def test_a_name_that_a_work_directory_needs(tmp_path):
    (tmp_path / "nets_of_mine.py").write_text(NETWORK)
    plugins.expect_plugins(tmp_path / "run", ["/elsewhere/nets_of_mine.py"])
    with pytest.raises(
        UserError, match=r"unknown model 'mine'; .*run was made with --import=/elsewhere/nets_of_mine.py"
    ):
        create_model("mine")
    plugins.import_plugins([str(tmp_path / "nets_of_mine.py")])  # the same file, in another place
    plugins.expect_plugins(tmp_path / "run", ["/elsewhere/nets_of_mine.py"])
    with pytest.raises(UserError, match="unknown model 'mind'; did you mean mine"):
        create_model("mind")
