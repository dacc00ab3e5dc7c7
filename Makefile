# headwater: `make run` and `make test` are all a newcomer needs; `make help` lists the rest.
PYTHON ?= python3.11
# Another index for torch, e.g. the CPU builds of a mirror: make setup TORCH_INDEX=https://…
TORCH_INDEX ?=
# A file of tests stays with one process: what its tests share is costly, or must not be touched by
# two. In the order of the folders, because the longest files are among the first.
PARALLEL ?= -n auto --dist loadfile --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK = 1

.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast check format bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## create .venv with everything in it

# torch comes first and pinned: anything else that asks for it would bring gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed (or: make setup PYTHON=…)"; exit 1; }
	@command -v c++ >/dev/null || echo "note: without a C++ compiler hnswlib cannot be built (Debian: apt-get install g++)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	touch $@

run: setup ## the main job on your own Python environment, start to end
	$(BIN)/python -m examples.python_environment --kb demo

test: setup ## every test, on all cores
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: setup ## the tests that take seconds
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

check: setup ## lint, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## apply the house format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## measure cost, latency, recall and start-up
	$(BIN)/python -m benchmarks

clean: ## remove the environment and the demo
	rm -rf $(VENV) demo build dist .benchmarks
