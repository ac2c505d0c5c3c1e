# `make demo` and `make test` are all a fresh machine needs; see `make help`.
PYTHON ?= python3
SHARED ?= ../shared
ARGS ?=
# Test processes: one a core, but each takes up to 7 GB.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n : 4)))

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test real lint format clean

help:  ## This list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' \
	  $(MAKEFILE_LIST)

# Installs only when the pins or the package's own metadata are newer. A venv
# that a killed run left without pip is made again.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rsfm_jax needs Python 3.11 or newer, but '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12 ..." >&2; \
	  exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || \
	  $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --editable .
	@touch $@

demo: $(READY)  ## Scenes, pre-training, pruning, probes and a report.
	$(BIN)/python -m rsfm_jax demo $(ARGS)

test: $(READY)  ## The test suite; ARGS='-k name' narrows it, JOBS=1 is serial.
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
	  --no-loadscope-reorder $(ARGS)

real: $(READY)  ## The same on real scenes (SHARED=folder of samples).
	SHARED=$(SHARED) PATH="$(CURDIR)/$(BIN):$$PATH" \
	  bash experiments/E001_ringmoe_tiny_real/run.sh $(ARGS)

lint: $(READY)  ## Style and format, changing nothing.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## Formats and fixes in place.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Removes the environment, caches and outputs.
	rm -rf .venv .cache .pytest_cache .ruff_cache build dist *.egg-info workdir
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
