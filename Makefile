# memprof: everything here works from a bare clone with Python 3.10 or newer and make.
#
#   make demo       profile a small leaky training script and show what memprof says about it
#   make test       run the whole test suite
#   make test-cuda  run tests/cuda with the CUDA build of torch, on a GPU or without one; downloads several GB once
#   make lint       ruff, mypy, import-linter, codespell
#   make docs       build the documentation, warnings are errors
#   make bench      measure what profiling costs and write docs/performance.md
#   make clean      remove everything these targets made

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Which torch to install. Pinned, so that the demo and the tests mean the same thing everywhere; and at this
# version because a CPU build is enough for both, and where pip is set up with one it is taken without
# several GB of CUDA packages. `make demo TORCH=torch` takes the newest build instead.
TORCH ?= torch==2.13.0

# The CUDA build and its companion, for `make test-cuda`. Where there is no GPU the tests bring a device of their
# own, which is written for these versions; it needs gcc and Linux on x86-64.
TORCH_CUDA ?= torch==2.14.1
TORCHVISION_CUDA ?= torchvision==0.29.1
VENV_CUDA ?= .venv-cuda
CUDA_TEST_ARGS ?= --require-cuda

DEMO_SCRIPT ?= samples/quickstart.py
DEMO_PLOT ?= demo.png
DEMO_RECORDING ?= demo.memprof
# Tests run side by side, one process for each core; JOBS=0 runs them in one.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
# Passed on, for example: make test PYTEST_ARGS="-m 'not slow' -k record"
PYTEST_ARGS ?=

PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet

# Each stamp stands for a set of installed packages; it is older than pyproject.toml when they may differ.
STAMPS := $(VENV)/.stamps
# A virtual environment made with another torch is brought up to date, so its name is part of the stamp's.
TORCH_STAMP := $(STAMPS)/$(subst /,_,$(subst =,-,$(TORCH)))

.PHONY: help
help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "memprof needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)

$(TORCH_STAMP): | $(BIN)/python
	@mkdir -p $(STAMPS)
	@echo "installing $(TORCH) into $(VENV) (once)"
	$(INSTALL) '$(TORCH)'
	@touch $@

$(STAMPS)/runtime: pyproject.toml $(TORCH_STAMP)
	$(INSTALL) --editable .
	@touch $@

$(STAMPS)/test $(STAMPS)/lint $(STAMPS)/docs: $(STAMPS)/%: $(STAMPS)/runtime
	$(INSTALL) --editable '.[$*]'
	@touch $@

.PHONY: install demo test test-cuda coverage lint format docs docs-check bench clean
install: $(STAMPS)/runtime

demo: $(STAMPS)/runtime
	$(BIN)/memprof analyze --plot $(DEMO_PLOT) -o $(DEMO_RECORDING) $(DEMO_SCRIPT)
	@echo
	@echo "The picture is in $(DEMO_PLOT); the recording is in $(DEMO_RECORDING)."
	@echo "See the diagnosis again with: $(BIN)/memprof report $(DEMO_RECORDING)"

test: $(STAMPS)/test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

# An environment of its own: one cannot hold the CPU build and the CUDA build.
test-cuda:
	$(MAKE) VENV=$(VENV_CUDA) TORCH='$(TORCH_CUDA)' $(VENV_CUDA)/.stamps/torchvision
	$(MAKE) VENV=$(VENV_CUDA) TORCH='$(TORCH_CUDA)' PYTEST_ARGS='$(CUDA_TEST_ARGS) $(PYTEST_ARGS) tests/cuda' test

$(STAMPS)/torchvision: $(TORCH_STAMP)
	$(INSTALL) '$(TORCHVISION_CUDA)'
	@touch $@

coverage: $(STAMPS)/test
	$(BIN)/python -m pytest --cov --cov-report=term $(PYTEST_ARGS)

lint: $(STAMPS)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(STAMPS)/lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMPS)/docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "The documentation is in docs/_build/html/index.html"

# Fails where a generated page no longer says what the code says.
docs-check: $(STAMPS)/runtime
	$(BIN)/python docs/generate_rules.py --check

bench: $(STAMPS)/test
	$(BIN)/python -m benchmarks --write docs/performance.md
	$(BIN)/python -m benchmarks.snapshots --write docs/performance.md

clean:
	rm -rf $(VENV) $(VENV_CUDA) build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -rf .hypothesis .coverage htmlcov
	rm -f $(DEMO_PLOT) $(DEMO_RECORDING) $(DEMO_RECORDING)-wal $(DEMO_RECORDING)-shm
	find memprof tests docs samples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
