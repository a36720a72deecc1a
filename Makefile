# One virtual environment, built once and rebuilt when pyproject.toml or constraints.txt changes.
#   make PYTHON=python3.12 test                                   another interpreter
#   make TORCH_INDEX=https://download.pytorch.org/whl/cpu test    torch without CUDA, where PyPI's wheel brings it

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-arviz1 lint bench docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## /\1: /p' $(firstword $(MAKEFILE_LIST)) | awk -F': ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ppl-models needs Python 3.11 or newer, and $(PYTHON) is %d.%d: run make PYTHON=python3.11 (or newer)" % sys.version_info[:2])'
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing torch into $(VENV) (the one large download) ..."
	@# torch first and alone: the constraint pins it, and no other index is asked for it
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "Installing ppl-models and its test tools into $(VENV) ..."
	@$(PIP) -e ".[test]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "Installing the documentation tools into $(VENV) ..."
	@$(PIP) -e ".[docs]"
	@touch $@

demo: $(VENV)/.installed  ## a VAE on 8x8 digits, then VI against MCMC on a belief network; two report pages
	@rm -rf runs/demo runs/demo-compare
	$(BIN)/ppl train vae --data digits --z-dim 20 --batch-size 25 --epochs 100 --threads 1 --compile off --out runs/demo
	$(BIN)/ppl evaluate runs/demo --k 1,5,50,5000
	$(BIN)/ppl compare sbn --data digits --budget 3 --out runs/demo-compare
	@echo "The reports: $(CURDIR)/runs/demo/report.html and $(CURDIR)/runs/demo-compare/report.html"

test: $(VENV)/.installed  ## the test suite, without the slow tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed  ## the slow tests alone
	$(BIN)/python -m pytest -m slow

# ArviZ 1.x asks for Python 3.12; the suite's own ArviZ is 0.2x, and diagnostics.py serves both
ARVIZ1 := arviz==1.3.0 h5netcdf==1.8.2 h5py==3.16.0 matplotlib==3.11.2 pytest==9.2.0
PYTHONS := $(PYTHON) python3.13 python3.12 $(wildcard $(HOME)/.pyenv/versions/3.1[23]*/bin/python)

.venv-arviz1/.installed: Makefile
	@found=; for python in $(PYTHONS); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "ArviZ 1.x needs Python 3.12 or newer, and none of $(PYTHONS) is: run make PYTHON=python3.12 test-arviz1"; \
	    exit 1; \
	fi; \
	echo "Creating .venv-arviz1 with $$found ..."; "$$found" -m venv .venv-arviz1
	@.venv-arviz1/bin/python -m pip install -qq --disable-pip-version-check $(ARVIZ1)
	@touch $@

test-arviz1: .venv-arviz1/.installed  ## the diagnostics under ArviZ 1.x, without torch
	.venv-arviz1/bin/python -m pytest --noconftest tests/inference/comparison/test_diagnostics.py

lint: $(VENV)/.installed  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.installed  ## every script in benchmarks/, one after the other
	@for script in benchmarks/*.py; do \
	    [ -e "$$script" ] || continue; \
	    echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

docs: $(VENV)/.installed-docs  ## the documentation, warnings as errors, and its doctests
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/python -m sphinx -q -W --keep-going -b doctest docs docs/_build/doctest
	@echo "The documentation: $(CURDIR)/docs/_build/html/index.html"

clean:  ## remove the environment, caches and built documentation; runs/ stays
	rm -rf .venv .venv-ci .venv-arviz1 docs/_build .pytest_cache .ruff_cache build dist *.egg-info
	find ppl_models inference tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +
