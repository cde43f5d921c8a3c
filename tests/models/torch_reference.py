"""The networks of torchvision and timm, with weights that both sides make from names and shapes alone.

    python -m tests.models.torch_reference

writes torch_golden.json, what PyTorch computes with them: the parity tests then need no PyTorch, and no weight files.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from dynet_jax.models.registry import model_info

GOLDEN_FILE = Path(__file__).with_name("torch_golden.json")
CLASSES, LABELS, SIZES = 10, (3, 7), ((224, 224), (225, 193))
CASES = (
    ("mobilenet_v2", "torchvision"),
    ("mobilenet_v2", "timm"),
    ("mobilenet_v3_small", "torchvision"),
    ("mobilenet_v3_small", "timm"),
    ("mobilenet_v3_large", "torchvision"),
    ("mobilenet_v3_large", "timm"),
    ("resnet18", "torchvision"),
    ("resnet18", "timm"),
    ("resnet50", "torchvision"),
    ("resnet50", "timm"),
    ("shufflenet_v2", "torchvision"),
)


def make_weights(shapes):
    """{name: shape} -> {name: array}; RandomState's streams are the same in every version of numpy."""
    return {name: _make_array(name, shape) for name, shape in shapes.items()}


def _make_array(name, shape):
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if len(shape) > 1:
        fan_in = np.prod(shape[1:])
        return (random.standard_normal(shape) * np.sqrt(1.4 / fan_in)).astype(np.float32)  # neither fades nor explodes
    if name.endswith(("bias", "running_mean")):
        return (0.2 * random.standard_normal(shape)).astype(np.float32)
    return random.uniform(0.5, 1.5, shape).astype(np.float32)  # scales and variances


def make_images(size):
    """Patches of colour under noise: noise alone would be the same to every network, once averaged."""
    random = np.random.RandomState(0)
    patches = 2 * random.standard_normal((len(LABELS), 5, 5, 3))
    rows, columns = (np.arange(length) * 5 // length for length in size)
    noise = random.standard_normal((len(LABELS), *size, 3))
    return (patches[:, rows][:, :, columns] + noise).astype(np.float32)


def run_torch(name, scheme, size):
    """Logits in evaluation; loss of a training-mode forward pass; loss in evaluation with the statistics it updated."""
    import torch

    network = _create(name, scheme)
    network.load_state_dict(
        {
            key: torch.from_numpy(_make_array(key, tuple(value.shape))) if value.is_floating_point() else value
            for key, value in network.state_dict().items()
        }
    )
    images = torch.from_numpy(make_images(size)).permute(0, 3, 1, 2)
    labels = torch.tensor(LABELS)
    loss = torch.nn.functional.cross_entropy
    with torch.no_grad():
        logits = network.eval()(images)
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        train_loss = loss(network(images), labels)
        updated_loss = loss(network.eval()(images), labels)
    return {"logits": logits.tolist(), "train_loss": train_loss.item(), "updated_loss": updated_loss.item()}


def _create(name, scheme):
    if scheme == "timm":
        import timm

        return timm.create_model(model_info(name).timm, num_classes=CLASSES)
    import torchvision

    return torchvision.models.get_model(model_info(name).torchvision, num_classes=CLASSES)


def main():
    import timm
    import torch
    import torchvision

    golden = {"made with": f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"}
    for name, scheme in CASES:
        for size in SIZES:
            golden[f"{name} {scheme} {size[0]}x{size[1]}"] = run_torch(name, scheme, size)
    GOLDEN_FILE.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
