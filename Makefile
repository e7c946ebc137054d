# Two commands set everything up on a fresh machine: `make demo` and `make test`.
#
#   PYTHON       interpreter that makes the environment (3.11 or newer)
#   VENV         where the environment lives
#   TORCH_INDEX  extra package index for another torch build (CPU only, or one for your GPU)
#   DATA         folder with mr/, ct/ and climate/ for `make train-pack`
#   TRAIN_ARGS   extra words for `make train-gpu`, for example TRAIN_ARGS='--minutes 20'
#   JOBS         processes that run the tests side by side; one of them mostly waits for servers
#   PYTEST_ARGS  extra words for pytest, for example PYTEST_ARGS='-k nifti'

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
DATA ?= ../shared/data
TRAIN_ARGS ?=
JOBS ?= 3
PYTEST_ARGS ?=

BIN := $(VENV)/bin
# a training machine may have torch, numpy and safetensors, and no environment of ours
TRAIN_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
STAMP := $(VENV)/.psc-archive-installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

# No analytics and no look-ups of models by name while we work.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_OFFLINE := 1
export MPLBACKEND := Agg
# compiled modules are kept, whatever the caller's setting: the tests start hundreds of programs
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help environment demo test lint format format-files clean niivue train-pack train-gpu wheel
.DELETE_ON_ERROR:

help:
	@echo "make demo    environment, then archive, restore, open and draw real volumes"
	@echo "make test    environment, all static checks, then the fast tests"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make format  let ruff rewrite formatting and import order"
	@echo "make train-pack  pack training volumes from DATA into training/pack"
	@echo "make train-gpu   train posterior networks from that pack, nine minutes in all"
	@echo "make niivue  build the 3-D part of \`psc-archive view\` anew (takes npm)"
	@echo "make wheel   a wheel for this system, with the loops of the codec in machine code"
	@echo "make clean   remove caches, builds and demo output (the environment stays)"

environment: $(STAMP)

# torch goes first and by exact version: a range would let pip take the newest build, which on
# Linux brings several gigabytes of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "psc-archive needs Python 3.11 or newer, " + sys.executable + " is " + sys.version.split()[0] + "; set PYTHON=...")'
	@test -x $(BIN)/python || { echo "making the environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing $(TORCH)"
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	@echo "installing psc-archive and its dependencies (several minutes the first time)"
	@$(PIP) --editable '.[all,bench,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m pipelines.demo

# the loops of the codec are compiled once, beside mypy, and not by every process of the tests
test: $(STAMP)
	@$(BIN)/python -m tests.compile_loops & loops=$$!; \
	$(MAKE) --no-print-directory lint || { kill $$loops; exit 1; }; \
	wait $$loops
	$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder --max-worker-restart 0 -m 'not slow and not gpu' $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP)
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

# what follows from the format number and the encoders: golden vectors, examples and number in the
# specification, archives that are kept from format 1 on (those that are there stay)
format-files: $(STAMP)
	$(BIN)/python -m psc_volumetric.conformance.regenerate
	$(BIN)/python tests/reference/write_examples.py
	$(BIN)/python -m tests.archives.write

# training/ is ignored by git; it is all a training machine needs besides the checkout
train-pack: $(STAMP)
	$(BIN)/python -m pipelines.training.posterior pack $(DATA)

train-gpu:
	$(TRAIN_PYTHON) -m pipelines.training.posterior train --resume training/checkpoints $(TRAIN_ARGS)

# the built file is in the tree; its digest stands beside the recipe
niivue:
	cd tools/niivue && npm ci && npm run build

# without the setting, and with pip, the wheel is for all systems and numba compiles at the first use
wheel: $(STAMP)
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 $(BIN)/python -m build --wheel --no-isolation

clean:
	rm -f psc_volumetric/loops-*.so
	rm -rf tools/niivue/node_modules build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
