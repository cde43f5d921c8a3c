"""Small files as PyTorch writes them, so that reading them is tested without PyTorch.

    python -m tests.models.torch_checkpoints

writes them to torch_files/.
"""

import argparse
import collections
import datetime
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("torch_files")


def tensors():
    """Returns the content of every file, as arrays; one of the tensors is not contiguous in PyTorch."""
    return {
        "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
        "fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }


def main() -> None:
    """Write the files."""
    import torch

    state = collections.OrderedDict((k, torch.from_numpy(v.T.copy()).T) for k, v in tensors().items())
    module = torch.nn.ModuleDict(
        {"conv1": torch.nn.Conv2d(3, 2, 2, bias=False), "fc": torch.nn.Linear(2, 3, bias=False)}
    )
    module.load_state_dict(state)
    optimizer = torch.optim.AdamW(module.parameters())
    (module["conv1"](torch.zeros(1, 3, 2, 2)).sum() + module["fc"].weight.sum()).backward()
    optimizer.step()
    module.load_state_dict(state)
    beside = argparse.Namespace(
        folder=Path("data"), when=datetime.datetime(2024, 2, 29), numbers=np.arange(3), random=np.random.default_rng(0),
        best={1, 2}, counts=collections.Counter("abca"), sums=collections.defaultdict(list, {"a": [1]}),
        device=torch.device("cpu"), type=torch.float16, strange=torch.ones(2, dtype=torch.complex64),
    )  # fmt: skip
    wrapped = {"epoch": 3, "args": beside, "state_dict": state, "optimizer": optimizer.state_dict()}
    FOLDER.mkdir(exist_ok=True)
    torch.save(state, FOLDER / "plain.pth")
    torch.save(state, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(wrapped, FOLDER / "legacy4.pth.tar", _use_new_zipfile_serialization=False, pickle_protocol=4)
    torch.save(wrapped, FOLDER / "wrapped.pth.tar")
    torch.save(wrapped, FOLDER / "protocol4.ckpt", pickle_protocol=4)
    torch.save({name: torch.nn.Parameter(tensor.bfloat16()) for name, tensor in state.items()}, FOLDER / "bfloat16.bin")
    torch.save(module, FOLDER / "module.pt")
    torch.save([1, 2], FOLDER / "list.pth")
    torch.jit.script(torch.nn.Linear(2, 2)).save(FOLDER / "script.pt")


if __name__ == "__main__":
    main()
