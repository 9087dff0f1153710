# Everything runs in a virtual environment of its own, .venv, made on first use. PYTHON picks the interpreter (3.11+).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# the paper's settings are for 300,000 steps; these are for the demo's 4,000
SMALL := --set train.epochs=20 --set options.lr=2e-2 --set options.temperature=0.5 --set options.init_natural=0.0
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint docs results bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## install, run a stream with and without the carried prior, show the matrices, write a report
	$(BIN)/clbinn run permuted_mnist5k -s bayesbinn -s bayesbinn_no_prior $(SMALL) --jobs 2 --out runs
	$(BIN)/clbinn report runs/permuted_mnist5k

test: $(VENV)/.dev  ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-slow: $(VENV)/.dev  ## the tests that take longer than a minute each
	$(PIP) install -e ".[fuzz]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs  ## the documentation, into docs/_build/html
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

results: $(VENV)/.dev  ## benchmarks/README.md from the run folders in benchmarks/results
	$(BIN)/python benchmarks/make_readme.py

bench: $(VENV)/.dev  ## the timing figures, some minutes on an idle machine
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/speed/run_all.py

clean:  ## remove the virtual environment and build products
	rm -rf $(VENV) build dist *.egg-info docs/_build .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.cfg | $(BIN)/python
	@echo "installing (the first time: some minutes, 7 GB)"
	$(PIP) install -e ".[data]"
	@touch $@

$(VENV)/.dev: setup.cfg | $(BIN)/python
	$(PIP) install -e ".[data,dev,hpo,ray]"
	@touch $@

$(VENV)/.docs: setup.cfg | $(BIN)/python
	$(PIP) install -e ".[data,docs]"
	@touch $@
