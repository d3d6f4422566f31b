# Two commands do everything on a fresh machine: make demo, make test.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALLED := $(VENV)/.installed-vae
OLDEST := .venv-oldest
TRITON := .venv-oldest-triton
INTERPRETED := $(wildcard tests/kernels/test_triton*.py) tests/test_bench_gpu.py

.PHONY: help demo test test-oldest docs links fuzz lint types bench bench-gpu level kernels-check clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(INSTALLED): pyproject.toml setup.cfg constraints.txt # what a user installs
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[vae]'
	@touch $@

$(STAMP): $(INSTALLED) # and what the tests and benchmarks compare with
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

demo: $(INSTALLED) ## train a small MMD-VAE on digits and test what it generates (half a minute)
	$(BIN)/python examples/demo.py

test: $(STAMP) ## run all tests
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-oldest: $(OLDEST)/.installed ## run them with the oldest versions that pyproject.toml allows (torch 2.6)
	$(OLDEST)/bin/python -m pytest -o filterwarnings= --disable-warnings

docs: $(VENV)/.installed-docs ## build the site into docs/_build/html, no network needed (QUICK=1: a few steps each)
	QUICK=$(QUICK) $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

links: $(VENV)/.installed-docs ## follow the site's external links; needs a network, so no part of CI
	$(BIN)/python -m sphinx -b linkcheck -D plot_gallery=0 docs docs/_build/links

fuzz: $(STAMP) ## 50,000 random cases against the dense formulas; stopped, it goes on where it was (CASES=, SEED=)
	$(BIN)/python -m tests.fuzz --cases $(or $(CASES),50000) --seed $(or $(SEED),0)

lint: $(STAMP) ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict on the packages
	$(BIN)/mypy

bench: $(STAMP) ## time losses and tests on this CPU against what people use (under ten minutes)
	$(BIN)/python -m pytest bench -m 'not slow' --benchmark-columns=median,iqr,rounds

bench-gpu: $(STAMP) ## on a CUDA device: check the kernels, then time them (eight minutes)
	$(BIN)/python -m bench.gpu

level: $(STAMP) ## 1,000 samples under the null for every test and kind of data (half an hour)
	$(BIN)/python -m pytest bench/test_level.py -m slow -s

kernels-check: $(STAMP) $(TRITON)/.installed ## compile every shipped GPU configuration for every architecture, no GPU needed
	$(BIN)/python -m bench.offline --full
	$(TRITON)/bin/python -m bench.offline
	$(TRITON)/bin/python -m pytest -o filterwarnings= --disable-warnings $(INTERPRETED)

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt \
		--editable '.[vae,plot,tables]' geomloss hypothesis pytest
	@touch $@

$(TRITON)/.installed: $(STAMP) # the oldest Triton supported; its interpreter uses what NumPy 2.4 no longer has
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python -m pip install --quiet --constraint constraints.txt torch scipy pytest
	$(TRITON)/bin/python -m pip install --quiet --no-deps triton==3.6.0 'numpy<2.4'
	@touch $@

clean: ## remove what the commands here made
	rm -rf $(VENV) $(OLDEST) $(TRITON) docs/_build docs/gallery build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
