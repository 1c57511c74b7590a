# Everything runs from .venv, which is built from the lock files. Needs only make and Python 3.11 or newer.

PYTHON ?= python3
BIN := .venv/bin
LOCKS := requirements.lock requirements-dev.lock
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-warn-script-location
PACKAGES := rules notifiers streams

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test check lint types contracts pytest simulate chaos format bench lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/.installed  ## create .venv from the lock files and install the project in it, editable

# A changed lock makes a new environment; a changed pyproject.toml only installs the project again.
# Bytecode is left to the first import: compiling every module of every library takes longer than it saves.
.venv/.locked: $(LOCKS)
	@command -v "$(PYTHON)" > /dev/null || { echo "Tocsin needs Python 3.11 or newer, and there is no '$(PYTHON)' here." \
	  "Install it, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tocsin needs Python 3.11 or newer;" \
	  "'$(PYTHON)' is $$("$(PYTHON)" --version 2>&1). Name another: make PYTHON=python3.11" >&2; exit 1; }
	@echo "Creating .venv from $(LOCKS): about a minute ..."
	@rm -rf .venv
	@"$(PYTHON)" -m venv .venv || { rm -rf .venv; echo "'$(PYTHON) -m venv' failed;" \
	  "on Debian and Ubuntu, install the package python3-venv." >&2; exit 1; }
	@$(PIP_INSTALL) --no-compile --require-hashes --only-binary :all: $(LOCKS:%=-r %)
	@touch $@

.venv/.installed: .venv/.locked pyproject.toml
	@$(PIP_INSTALL) --no-compile --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv  ## run the demo: broker, traffic with incidents, worker, alerts in the terminal
	@$(BIN)/tocsin demo

test: check pytest  ## everything that must pass: check, then the tests and the coverage fence

check: lint types contracts  ## what takes seconds: lint, types, contracts

lint: venv  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv  ## mypy --strict
	$(BIN)/mypy

contracts: venv  ## the layers and the purity of the core (import-linter)
	$(BIN)/lint-imports

# Many tests wait for brokers and workers: on two cores, three processes keep both busy.
PROCESSES ?= 3
pytest: venv  ## the tests, with 100 % branch coverage of rules/ and the windows (PROCESSES=3)
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist loadgroup --no-loadscope-reorder --cov --cov-report=
	$(BIN)/coverage report --fail-under=100

SEEDS ?= 1000
SEED :=
simulate: venv  ## crashes, zombies and rebalances under a seeded scheduler, against an oracle (SEEDS=1000, or SEED=7)
	@$(BIN)/python tests/simulation/simulation_run.py $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

KILLS ?= 100
NODES ?= 3
chaos: venv  ## kill workers and brokers of an Apache Kafka cluster under load, against the oracle (KILLS=100 NODES=3)
	@$(BIN)/python tests/chaos/chaos_run.py --kills $(KILLS) --nodes $(NODES) $(if $(SEED),--seed $(SEED))

format: venv  ## format the code and apply ruff's safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv  ## calls per second, end to end, beside a raw consumer
	@$(BIN)/python bench/run.py

# Needs uv. The locks hold exact versions and hashes for every platform, and no index addresses.
UV_COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock:  ## write the lock files again from pyproject.toml (UPGRADE=--upgrade for newer versions)
	$(UV_COMPILE) $(UPGRADE) pyproject.toml --group build --output-file requirements.lock
	$(UV_COMPILE) $(UPGRADE) --constraint requirements.lock --group dev --output-file requirements-dev.lock

clean:  ## remove what can be made again
	rm -rf .venv build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(PACKAGES) tests bench -type d -name __pycache__ -prune -exec rm -rf {} + 2> /dev/null || true
