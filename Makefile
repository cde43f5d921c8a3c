# `make train` trains a real network on the bundled digits; `make test` runs the tests. Both install what they need into
# .venv the first time, and find it there afterwards.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-fast test-slow env-torch test-torch env-gpu env-gpu-compiler test-gpu-compiler env-tpu test-tpu env-onnx test-onnx lint format clean

train: .venv/installed
	$(BIN)/python train.py --config=configs/dy_mobile.py:digits --workdir=runs/digits

# What takes a second at most, and then the rest.
test: test-fast test-slow

test-fast: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

# The parity tests against the real PyTorch, torchvision and timm: several GB, so in an environment of their own.
env-torch: .venv-torch/installed

test-torch: env-torch
	.venv-torch/bin/python -m pytest tests/models/test_torch_parity.py tests/models/test_torch_weights.py

# JAX and PyTorch, both for CUDA 13, for `benchmarks.throughput` on a machine with a GPU: many GB.
env-gpu: .venv-gpu/installed

# XLA's compiler for GPUs, for `dynet compile-gpu` on machines without a GPU: ptxas and JAX's plugin, without CUDA's
# libraries, and JAX of the plugin's version.
env-gpu-compiler: .venv-gpu-compiler/installed

test-gpu-compiler: env-gpu-compiler
	.venv-gpu-compiler/bin/python -m pytest tests/test_gpu.py tests/ops/gpu

# The TPU's compiler, for `dynet compile-tpu` on machines without a TPU. Beside it plain CPU runs look for one.
env-tpu: .venv-tpu/installed

test-tpu: env-tpu
	.venv-tpu/bin/python -m pytest tests/test_tpu.py tests/ops/tpu

# OpenVINO, a second runtime for exported files, and NNCF, which quantises for it; ONNX Runtime is among the
# requirements of the tests.
env-onnx: .venv-onnx/installed

test-onnx: env-onnx
	.venv-onnx/bin/python -m pytest tests/export

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-torch .venv-gpu .venv-gpu-compiler .venv-tpu .venv-onnx build dynet_jax.egg-info

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name one: make PYTHON=python3.12 ...")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	touch $@

.venv-torch/installed: requirements.txt requirements-dev.txt pyproject.toml
	test -x .venv-torch/bin/pip || $(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check torch torchvision timm --editable . \
	  --requirement requirements-dev.txt
	touch $@

.venv-gpu/installed: requirements.txt requirements-dev.txt pyproject.toml
	test -x .venv-gpu/bin/pip || $(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check "jax[cuda13]" torch torchvision timm \
	  --editable . --requirement requirements-dev.txt
	touch $@

.venv-gpu-compiler/installed: requirements.txt requirements-dev.txt pyproject.toml
	test -x .venv-gpu-compiler/bin/pip || $(PYTHON) -m venv .venv-gpu-compiler
	.venv-gpu-compiler/bin/python -m pip install --quiet --disable-pip-version-check nvidia-cuda-nvcc-cu12 --editable . \
	  --requirement requirements-dev.txt
	version=$$(.venv-gpu-compiler/bin/python -c 'import jax; print(jax.__version__)'); \
	.venv-gpu-compiler/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version
	touch $@

.venv-tpu/installed: requirements.txt requirements-dev.txt pyproject.toml
	test -x .venv-tpu/bin/pip || $(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check "jax[tpu]" --editable . \
	  --requirement requirements-dev.txt
	touch $@

.venv-onnx/installed: requirements.txt requirements-dev.txt pyproject.toml
	test -x .venv-onnx/bin/pip || $(PYTHON) -m venv .venv-onnx
	.venv-onnx/bin/python -m pip install --quiet --disable-pip-version-check openvino nncf --editable . \
	  --requirement requirements-dev.txt
	touch $@
