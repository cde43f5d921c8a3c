# `make train` trains a real network on the bundled digits; `make test` runs the tests. Both install what they need into
# .venv the first time, and find it there afterwards.
PYTHON ?= python3
BIN := .venv/bin

PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: train test test-fast test-slow test-oldest env-torch test-torch env-gpu env-gpu-compiler test-gpu-compiler env-tpu
.PHONY: test-tpu env-onnx test-onnx lint format docs wheel clean

train: .venv/installed
	$(BIN)/python train.py --config=configs/dy_mobile.py:digits --workdir=runs/digits

# What takes a second at most, and then the rest.
test: test-fast test-slow

test-fast: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

# The same fast tests with the oldest JAX and Flax that pyproject.toml allows.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -m "not slow"

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

# The documentation as a site, in site/. A warning, such as a link that leads nowhere, is an error. The variable leaves
# out the theme's notice that it is maintained until May 2027, and that Zensical, which reads mkdocs.yml too, follows it.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --quiet --strict

wheel: .venv/installed
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir=dist .

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-oldest .venv-torch .venv-gpu .venv-gpu-compiler .venv-tpu .venv-onnx .venv-docs build dist site dynet_jax.egg-info

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name one: make PYTHON=python3.12 ...")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) --editable ".[train,export]"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python $(PIP) --editable ".[dev]"
	touch $@

# An environment of its own for what is in no extra.
.venv-%/installed: pyproject.toml
	test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) $(packages) --editable ".[dev]"
	touch $@

.venv-oldest/installed: packages = $(shell sed -nE 's/^ *"((jax|flax)>=[0-9.]+)".*/\1/p' pyproject.toml | sed 's/>=\(.*\)/==\1.0/')
.venv-docs/installed: docs/requirements.txt
	test -x .venv-docs/bin/pip || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(PIP) --requirement docs/requirements.txt
	touch $@

.venv-torch/installed: packages = torch torchvision timm
.venv-gpu/installed: packages = "jax[cuda13]" torch torchvision timm
.venv-tpu/installed: packages = "jax[tpu]"
.venv-onnx/installed: packages = openvino nncf
.venv-gpu-compiler/installed: pyproject.toml
	test -x .venv-gpu-compiler/bin/pip || $(PYTHON) -m venv .venv-gpu-compiler
	.venv-gpu-compiler/bin/python $(PIP) nvidia-cuda-nvcc-cu12 --editable ".[dev]"
	version=$$(.venv-gpu-compiler/bin/python -c 'import jax; print(jax.__version__)'); \
	.venv-gpu-compiler/bin/python $(PIP) --no-deps jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version
	touch $@
