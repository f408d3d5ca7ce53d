# Two commands for a new machine (Debian 12, as root): `make demo` and `make test`. Both set up all
# that they need first; what is fetched and built is kept in $SALTEXT_OPENHIM_CACHE.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export SALTEXT_OPENHIM_CACHE ?= /var/cache/saltext-openhim
export PYTHONDONTWRITEBYTECODE := 1

# The Python that makes the environments; all else runs in the environment that it made.
BOOTSTRAP ?= python3
LAYERS := unit functional integration lab
# Options for pytest: make unit ARGS="-k schema"
ARGS ?=
# Much of what tests do is waiting; 0 runs them in one process, as a debugger needs it.
WORKERS ?= 4
PYTEST = $(PYTHON) -m pytest -n $(WORKERS)

# Found anew each time: another version of setup.cfg, or another clone, has another environment.
PYTHON = "$(shell $(BOOTSTRAP) -m lab.environments development)/bin/python"

.PHONY: help
help: ## this list
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

.PHONY: setup
setup: packages environment ## everything that the rest needs: system packages, Python, artifacts, the lab's image
	@$(PYTHON) -m lab fetch

.PHONY: packages
packages:
	@.ci/packages

.PHONY: environment
environment: packages
	@$(BOOTSTRAP) -m lab.environments development >/dev/null

.PHONY: test
test: setup lint ## lint, then all tests, layer by layer, with the time of each
	@$(PYTEST) $(ARGS)

.PHONY: $(LAYERS)
unit functional integration lab: environment ## the tests of one layer; ARGS="-k …" for pytest
	@$(PYTEST) tests/$@ $(ARGS)

BENCHMARKS = $(filter-out __init__ common,$(basename $(notdir $(wildcard benchmarks/*.py))))
.PHONY: bench
bench: environment ## every benchmark, beside its alternative; keeps benchmarks/results.json
	@rm -f benchmarks/results.json
	@for name in $(BENCHMARKS); do $(PYTHON) -m benchmarks.$$name $(ARGS); done

.PHONY: lint
lint: environment ## ruff's checks, the form of every file, the library's types
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy

.PHONY: format
format: environment ## let ruff correct what it can
	@$(PYTHON) -m ruff check --fix . ; $(PYTHON) -m ruff format .

.PHONY: docs
docs: environment ## write the pillar's reference page, and the documentation as a site into build/docs
	@$(PYTHON) -m saltext.openhim.schema.reference docs/reference/pillar.md
	@$(PYTHON) -m sphinx -q -W --keep-going -b html docs build/docs

.PHONY: demo
demo: setup ## production stands up, a site is lost under load, OpenHIM serves at the other one
	@$(PYTHON) -m lab.demo $(ARGS)

.PHONY: demo-full
demo-full: setup ## the whole story: moves, a site cut off while it writes, its return, all destroyed and rebuilt
	@$(PYTHON) -m lab.demo_full $(ARGS)

.PHONY: failover-time
failover-time: setup ## one failover after a loss of power, and whose its seconds were
	@$(PYTHON) -m lab.failover_time

.PHONY: nightly
nightly: test ## all tests, then what takes longer: npm, and all but the lab with Salt 3006 too
	@$(PYTEST) -m nightly $(ARGS)
	@$(PYTHON) -m nox -s tests-3006

.PHONY: clean
clean: ## remove what builds left here, and labs whose owner is gone; the cache stays
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@$(BOOTSTRAP) -m lab clean
