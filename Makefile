# Everything runs in .venv, which the first target that needs it makes.
#
#   make eval       examine the shipped checkpoint: results/demo/report.html
#   make check      before a commit: lint, types, and the quick tests (questions,
#                   planning, checkpoints, tools, configs and the floors)
#   make test       all tests but the slow ones, every array held against its annotation
#   make test-slow  the slow ones
#   make coverage   the same tests, and which lines they run
#   make test-faults        every mesh; kills and starves runs on up to four processes
#   make test-fuzz          broken data, checkpoints and command lines by the thousand
#   make test-parity        our models beside PyTorch's (installs the extra parity)
#   make test-big-vision    and beside big_vision's, from a checkout on PYTHONPATH
#   make test-ogbench       in OGBench's own env (installs the extra ogbench)
#   make aot        does the 3B model fit a TPU slice? (TOPOLOGY=v5e:4x4 ARGS=..)
#   make test-tpu-aot       compiles for TPUs without one (libtpu in .venv/libtpu)
#   make fixtures   write again what make test holds the models against
#   make lint       ruff                               make format      ruff, writing
#   make types      pyright
#   make train      data, pre-training, training of the tiny model (hours)
#   make venv       only the environment               make clean       remove it
#
# HF is a folder with real weights, as downloaded (docs/checkpoints.md):
#   make inspect HF=folder               what would be read, every tensor of it
#   make convert HF=folder OUT=folder    to Orbax; OUT=file.npz for big_vision
#   make eval HF=folder                  examine a published world model as it is

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PARITY_STAMP := $(VENV)/.installed-parity
OGBENCH_STAMP := $(VENV)/.installed-ogbench
# A folder of its own: with libtpu among the packages every JAX process reaches for it.
LIBTPU := $(VENV)/libtpu
LIBTPU_VERSION := 0.0.42.1
TOPOLOGY ?= v5e:4x4
RUNS ?= runs
DATA ?= data/board

# The first Python that is new enough and can make virtual environments.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && echo $$p && break; done)
# The tested set fits Python 3.11; newer ones resolve to newer releases.
CONSTRAINTS = $(shell $(PYTHON) -c 'import sys; \
	print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")')

TEST_WORKERS ?= 2
# Workers need not import PyTorch only to find that they run none of its tests.
# A worker begins with one half and takes over what the other has not come to, so that
# tests of a module meet in the process that has compiled their programs.
TEST := JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal \
	--ignore=tests/parity
MARKS := not gpu and not tpu_aot and not big_vision and not parity and not faults \
	and not ogbench and not language_table and not fuzz
# Shapes and dtypes of annotations are checked whenever a test calls a function.
ANNOTATIONS := --jaxtyping-packages=swm_jax,data_pipelines,checked_annotations.checked
# A third of the tests in a sixth of the time.
QUICK := tests/test_floors.py tests/questions tests/planning tests/checkpoints \
	tests/tools tests/training/test_config_check.py tests/training/test_config_flag.py \
	--ignore=tests/planning/test_simulator_world_model.py

.PHONY: eval aot libtpu inspect convert check coverage test test-slow test-faults \
	test-fuzz test-parity test-big-vision test-ogbench test-tpu-aot fixtures lint types format \
	train venv clean

eval: $(STAMP)
	$(BIN)/python -m swm_jax.eval $(if $(HF),--checkpoint "$(HF)") $(ARGS)

inspect: $(STAMP)
	@test -n "$(HF)" || { echo "error: make inspect HF=folder"; exit 1; }
	$(BIN)/python -m swm_jax.convert "$(HF)" --dry-run $(ARGS)

convert: $(STAMP)
	@test -n "$(HF)" -a -n "$(OUT)" || \
		{ echo "error: make convert HF=folder OUT=destination"; exit 1; }
	$(BIN)/python -m swm_jax.convert "$(HF)" "$(OUT)" $(ARGS)

check: lint types
	$(TEST) -m "$(MARKS) and not slow" $(QUICK) $(ARGS)

test: $(STAMP)
	$(TEST) $(ANNOTATIONS) -m "$(MARKS) and not slow" $(ARGS)

coverage: $(STAMP)
	$(TEST) -m "$(MARKS) and not slow" --cov $(ARGS)

test-slow: $(STAMP)
	$(TEST) -m "$(MARKS) and slow" $(ARGS)

test-faults: $(STAMP)
	$(TEST) -m faults $(ARGS)

aot: $(LIBTPU)/.installed
	$(BIN)/python -m swm_jax.tools.aot --topology $(TOPOLOGY) $(ARGS)

test-tpu-aot: $(LIBTPU)/.installed
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m tpu_aot tests \
		--ignore=tests/parity $(ARGS)

libtpu: $(LIBTPU)/.installed

$(LIBTPU)/.installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--upgrade --target $(LIBTPU) libtpu==$(LIBTPU_VERSION)
	touch $@

test-fuzz: $(STAMP)
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m fuzz tests/fuzz $(ARGS)

# One process: what the models gave is shared between tests.
test-parity: $(PARITY_STAMP)
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m parity tests/parity $(ARGS)

test-big-vision: $(STAMP)
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m big_vision tests $(ARGS)

test-ogbench: $(OGBENCH_STAMP)
	MUJOCO_GL=$${MUJOCO_GL:-egl} JAX_PLATFORMS=cpu $(BIN)/python -m pytest \
		-m ogbench tests $(ARGS)

fixtures: $(PARITY_STAMP)
	JAX_PLATFORMS=cpu PYTHONPATH=.:tests/helpers:tests/parity $(BIN)/python -m write_fixtures

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/pyright --project pyproject.toml --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every stage resumes where it was stopped.
train: $(STAMP)
	$(BIN)/python -m data_pipelines.generate \
		--config experiments/generate_board.py --output $(DATA)
	$(BIN)/python -m swm_jax.train --config experiments/board_tiny.py:pretrain \
		--workdir $(RUNS)/pretrain
	$(BIN)/python -m swm_jax.train --config experiments/board_tiny.py \
		--config.init_from=$(RUNS)/pretrain --config.data.dir=$(DATA) \
		--workdir $(RUNS)/swm

venv: $(STAMP)

$(STAMP): setup.cfg requirements.txt constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python of at least 3.11 with venv found;" \
		"expected e.g. python3.11 and the package python3-venv, or PYTHON=path"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(CONSTRAINTS) -e '.[dev]'
	touch $(STAMP)

$(PARITY_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(CONSTRAINTS) -e '.[dev,parity]'
	touch $(PARITY_STAMP)

$(OGBENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(CONSTRAINTS) -e '.[dev,ogbench]'
	touch $(OGBENCH_STAMP)

clean:
	rm -rf $(VENV)
