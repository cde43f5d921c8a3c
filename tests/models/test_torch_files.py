"""Weight files are read by their content, without PyTorch, and without executing code in them."""

import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dynet_jax.errors import UserError
from dynet_jax.models.torch_contents import find_weights
from dynet_jax.models.torch_files import read_checkpoint
from tests.models.torch_checkpoints import FOLDER, tensors

LAYERS = ["conv1", "fc"]


def read(file):
    """The arrays, as an import takes them."""
    weights, _ = find_weights(read_checkpoint(file), [LAYERS])
    return {name: np.asarray(t.array() if hasattr(t, "array") else t) for name, t in weights.tensors.items()}


@pytest.mark.parametrize(
    "name",
    [
        "plain.pth",
        "legacy.pth",
        "legacy4.pth.tar",
        "wrapped.pth.tar",
        "protocol4.ckpt",
        "bfloat16.bin",
        "module.pt",
    ],
)
def test_what_pytorch_writes(name, tmp_path):
    file = tmp_path / "no_suffix"  # content counts, not the name
    file.write_bytes((FOLDER / name).read_bytes())
    found = read(file)
    assert found.keys() == tensors().keys()
    for key, expected in tensors().items():
        np.testing.assert_array_equal(found[key].astype(np.float32), expected)


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_safetensors(kind, tmp_path):
    save_file({k: np.ascontiguousarray(v, kind) for k, v in tensors().items()}, tmp_path / "weights.bin")
    found = read(tmp_path / "weights.bin")
    assert {array.dtype for array in found.values()} == {np.dtype(kind)}
    np.testing.assert_array_equal(found["fc.weight"].astype(np.float32), tensors()["fc.weight"])


def test_npz(tmp_path):
    np.savez(tmp_path / "weights.npz", **tensors())
    np.testing.assert_array_equal(read(tmp_path / "weights.npz")["fc.weight"], tensors()["fc.weight"])


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_pickle_is_run(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("weights.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": Malicious(), "epoch": 1}, protocol))
    assert read_checkpoint(tmp_path / "weights.pth")["epoch"] == 1
    assert not (tmp_path / "executed").exists()


def test_a_tensor_that_reaches_beyond_its_storage_is_not_read(tmp_path):
    with zipfile.ZipFile(FOLDER / "plain.pth") as whole, zipfile.ZipFile(tmp_path / "cut.pth", "w") as cut:
        for name in whole.namelist():
            content = whole.read(name)
            cut.writestr(name, content[:4] if "/data/" in name else content)
    with pytest.raises(ValueError, match="reaches beyond its storage"):
        read(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04", "cannot be read as weights .*; is it complete"),
        (b"hello", "holds no weights: expected are .safetensors, .npz, and files of torch.save"),
        (b"", "holds no weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS; `git lfs pull` fetches"),
        (b"\n<!DOCTYPE html><html>", "is a web page or XML"),
        (b"\x1f\x8b\x08", "is compressed by gzip; unpack it first"),
        (pickle.dumps({"a": 1}), "is a pickle, but not of torch.save"),
        (b"\x89HDF\r\n", "is HDF5"),
        ((FOLDER / "legacy.pth").read_bytes()[:-3], "it is cut short.*; is it complete"),
        ((FOLDER / "plain.pth").read_bytes()[:300], "is it complete"),
        ((FOLDER / "script.pt").read_bytes(), "is a program of TorchScript"),
    ],
)
def test_files_that_are_not_weights(content, message, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_checkpoint(tmp_path / "weights.pth")
    assert str(tmp_path / "weights.pth") in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*absent.npz"):
        read_checkpoint(tmp_path / "absent.npz")
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        read_checkpoint(tmp_path)


def test_a_list_holds_no_weights():
    with pytest.raises(UserError, match="there is no state dict, but list"):
        read(FOLDER / "list.pth")


def test_arrays_of_numpy_in_a_pickle_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": tensors(), "epoch": 1}, 2))
    with pytest.raises(
        UserError, match=r"no tensors with names, but state_dict, epoch; NumPy's arrays are read from np"
    ):
        read(tmp_path / "weights.pth")
