"""The PyTorch side of `benchmarks.throughput`: channels last, autocast, compiled, SGD with momentum."""

from collections.abc import Iterator

import torch

from benchmarks import torch_networks
from benchmarks.programs import Call, Programs
from dynet_jax.measure.serve import serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def describe() -> dict[str, str]:
    kind = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    name = f"torch {torch.__version__}, timm {torch_networks.timm.__version__} on {kind}"
    return {"is": name, "runs_on": "gpu" if DEVICE == "cuda" else "cpu"}


def prepare(cells: list[dict]) -> Iterator[tuple[str, Call | Exception]]:
    for cell in cells:
        try:
            yield cell["name"], _cell(cell)
        except Exception as error:
            yield cell["name"], error


def forget() -> None:
    """Drops compiled programs before a group, never between its programs, which would be compiled again when timed.

    PyTorch compiles one function, as `_cell` makes them, a few times only, and then runs it as it is written.
    """
    torch._dynamo.reset()


def _cell(cell: dict) -> Call:
    model = torch_networks.create(cell["network"], cell["frame"], cell["timm"], cell["torchvision"])
    model = model.to(DEVICE, memory_format=torch.channels_last)
    size, batch = cell["image_size"], cell["batch"]
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=DEVICE)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,), device=DEVICE)
    mean, std = (torch.tensor(value, device=DEVICE).view(1, 3, 1, 1) for value in (MEAN, STD))
    half = cell["dtype"] == "bfloat16"

    def logits():
        with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
            return model((images.float() - mean) / std)

    def loss():
        return torch.nn.functional.cross_entropy(logits().float(), labels, label_smoothing=0.1)

    def probabilities():
        return torch.softmax(logits().float(), 1)

    compile_ = _compiler(cell["compile"])
    if cell["pass"] == "training":
        return _training(model.train(), compile_(loss))
    return _inference(model.eval(), compile_(probabilities))


def _compiler(mode: str):
    if mode == "none":
        return lambda function: function
    return lambda function: torch.compile(function, mode=mode, dynamic=False)


def _training(model, loss) -> Call:
    # A small learning rate, as in the first steps of a warm-up: the values stay finite.
    fused = {"fused": True} if DEVICE == "cuda" else {}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-5, **fused)

    def call(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()
        _wait()

    return call


def _inference(model, probabilities) -> Call:
    def call(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                probabilities()
        _wait()

    return call


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    serve(Programs(prepare, describe, forget).answer)
