"""What it takes to have a first answer on a device: size of files, start-up from exec to the first result, peak memory.

python -m benchmarks.deployment --prefix=$HOME/dynet

The prefix is where `cmake --install` has put the library (docs/deploy.md). Each runtime is a new process that loads a
network with random weights, classifies one image, and ends; all of them in turns, the medians of `--runs` turns. Files
and libraries are in the system's cache. OpenVINO is measured where it is installed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dynet_jax import create_model
from dynet_jax.analysis.table import Table
from dynet_jax.config.keys import KEYS
from dynet_jax.data.preprocessing import Preprocessing
from dynet_jax.export.onnx import write_onnx
from dynet_jax.inference import InferenceModel, program_of
from dynet_jax.inference.int8 import find_ranges
from dynet_jax.inference.native.file import Numbers, write_file
from dynet_jax.number_formats import NUMBERS

SIZE = 224
PREPROCESSING = Preprocessing(SIZE, 256, KEYS["data.mean"].default, KEYS["data.std"].default)
# A small process that starts others: a child counts the memory of whoever forks it as its own.
LAUNCHER = """
import os, subprocess, sys, time
begin = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(status, time.perf_counter() - begin, usage.ru_maxrss / 1024)
"""
BEGIN = "import sys, numpy as np; image = np.zeros((1, 224, 224, 3), np.uint8); "
IN_PYTHON = {
    "dynet": "import dynet_runtime; dynet_runtime.load(sys.argv[1], 1).logits(image)",
    "onnx": "import onnxruntime as o; s = o.SessionOptions(); s.intra_op_num_threads = 1; "
    "m = o.InferenceSession(sys.argv[1], s); m.run(None, {m.get_inputs()[0].name: image})",
    "openvino": "import openvino as o; c = o.Core(); "
    "m = c.compile_model(sys.argv[1], 'CPU', {'INFERENCE_NUM_THREADS': 1}); m(image)",
}


def write_files(network: str, folder: Path) -> dict[str, Path]:
    """Returns the network's files by format and numbers."""
    model = create_model(network)
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, SIZE, SIZE, 3))))(jax.random.key(0))
    program = program_of(model, variables, SIZE)
    noise = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    ranges = find_ranges(program, PREPROCESSING, [noise])
    files = {}
    for name in ("float32", "bfloat16", "int8"):
        storage, arithmetic = NUMBERS[name]
        files[f"dynet {name}"] = folder / f"{name}.dynet"
        options = Numbers(storage, arithmetic, ranges if arithmetic == "int8" else None)
        files[f"dynet {name}"].write_bytes(write_file(program, options, PREPROCESSING, name=network)[0])
    files["onnx"] = folder / "network.onnx"
    files["onnx"].write_bytes(write_onnx(InferenceModel(program, PREPROCESSING, runtime="jax"), network))
    return files


def commands(files: dict[str, Path], prefix: Path, image: Path) -> dict[str, tuple[list[str], Path]]:
    """Returns for each row the command and the file that it reads."""
    rows = {}
    for name, file in files.items():
        if name == "onnx":
            rows["ONNX Runtime, Python"] = [sys.executable, "-c", BEGIN + IN_PYTHON["onnx"], str(file)], file
            if find_spec("openvino"):
                rows["OpenVINO, Python"] = [sys.executable, "-c", BEGIN + IN_PYTHON["openvino"], str(file)], file
        else:
            rows[f"{name}, C"] = [str(prefix / "bin/dynet_classify"), str(file), str(image)], file
            rows[f"{name}, Python"] = [sys.executable, "-c", BEGIN + IN_PYTHON["dynet"], str(file)], file
    return rows


def start(command: list[str], library: Path) -> tuple[float, float]:
    """Returns the seconds of a process from exec to its end, and its peak memory in MB."""
    environment = os.environ | {"DYNET_LIBRARY": str(library), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-S", "-c", LAUNCHER, *command]
    status, seconds, memory = map(float, subprocess.check_output(launcher, env=environment).split())
    if status:
        raise SystemExit(f"{command[0]} failed with status {status:.0f}")
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefix", type=Path, required=True, help="where the library is installed")
    parser.add_argument("--network", default="dy_mobile")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    library = options.prefix / "lib/libdynet.so"
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.ppm"
        image.write_bytes(b"P6 224 224 255\n" + bytes(SIZE * SIZE * 3))
        rows = commands(write_files(options.network, Path(folder)), options.prefix, image)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for _ in range(options.runs + 1):  # the first fills the cache
            for name, (command, _) in rows.items():
                taken[name].append(start(command, library))
        cells = []
        for name, (_, file) in rows.items():
            seconds, memory = (statistics.median(values) for values in zip(*taken[name][1:]))
            cells.append((name, round(file.stat().st_size / 1e6, 1), round(1000 * seconds), round(memory)))
    print(Table(("runtime", "file, MB", "start to first result, ms", "peak memory, MB"), cells).markdown())
    print(f"libdynet: {library.resolve().stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
