# Two commands do everything: `make demo` runs the main job, `make test` proves the tree.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Touched when the environment is complete, so that a broken installation is tried again.
STAMP := $(VENV)/.stamp
# The extra that brings the accelerator's jax: cuda where there is an NVIDIA driver; `make ACCELERATOR=tpu setup` on a TPU.
ACCELERATOR ?= $(if $(shell command -v nvidia-smi),cuda)
COMMA := ,
EXTRAS := demo,dev$(if $(ACCELERATOR),$(COMMA)$(ACCELERATOR))

.PHONY: setup demo study test test-slow test-thorough lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Handoff needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: setup
	$(BIN)/python -m benchmarks.label_efficiency configs/demo.py --workdir runs/demo

study: setup
	$(BIN)/python -m benchmarks.label_efficiency configs/study.py --workdir runs/study

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not thorough'

test-slow: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

test-thorough: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m thorough

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
