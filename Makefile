# Two commands work on a fresh machine that has CPython >= 3.11 and make: "make demo" and "make test".
# PYTHON chooses the interpreter, VENV the environment's place, PYTEST_ARGS is added to every pytest run.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
METADATA := setup.cfg setup.py pyproject.toml

.DEFAULT_GOAL := help
# Two pips in one environment break it, so "make -j" must not run two targets at once.
.NOTPARALLEL:
.PHONY: help demo test lint types bench bench-smoke stress test-all clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMPS)/demo ## pull one image twenty times at once, with suppression and with back-off, five times with the convoy; table, picture, rootfs
	@echo "demo: twenty pulls of one image at once, with suppression and with the back-off it replaces; five with the convoy"
	@$(BIN)/python -m benchmarks demo --out demo

test: $(STAMPS)/test ## run the test suite on two workers; fails below 85 % branch coverage
	@echo "test: the suite on $(WORKERS) workers, with branch coverage"
	@$(BIN)/python -m pytest -n $(WORKERS) --benchmark-disable \
		--cov=imgpull --cov-branch --cov-report=term --cov-fail-under=85 $(PYTEST_ARGS)

lint: $(STAMPS)/dev ## ruff over the package, the tests and the benchmarks
	@echo "lint: ruff check"
	@$(BIN)/ruff check .

types: $(STAMPS)/dev ## mypy --strict over the package
	@echo "types: mypy --strict imgpull"
	@$(BIN)/mypy

bench: $(STAMPS)/dev ## the comparison table: suppression, back-off and convoy, five repeats (minutes); then the floor
	@echo "bench: twenty pulls per arm, five repeats"
	@$(BIN)/python -m benchmarks compare --image redis --pulls 20 --arms suppression,backoff,convoy --repeats 5
	@echo "bench: what one pull must cost at least, and imgpull beside it"
	@$(BIN)/python -m benchmarks floor --image redis

bench-smoke: $(STAMPS)/dev ## one short round of the comparison, floor, profile and shaped, to see that they run
	@echo "bench-smoke: five pulls per arm, one repeat; one round of the others"
	@$(BIN)/python -m benchmarks compare --image demo --pulls 5 --arms suppression,backoff --repeats 1
	@$(BIN)/python -m benchmarks floor --image demo --rounds 1
	@$(BIN)/python -m benchmarks profile --image demo --rounds 1
	@$(BIN)/python -m benchmarks shaped --image demo --rounds 1 --peers imgpull-library

stress: $(STAMPS)/test ## the tests marked stress: seeded, repeated, minutes long
	@echo "stress: the tests marked stress, one at a time"
	@$(BIN)/python -m pytest -m stress --timeout 1800 $(PYTEST_ARGS)

test-all: lint types test stress ## lint, types, test, stress

clean: ## remove what make and the tools left behind (not the environment)
	@echo "clean: build products and tool directories"
	@rm -rf build dist demo *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis htmlcov

# One stamp per set of extras. Installed afresh when the metadata changes; a failed install leaves no stamp.
$(STAMPS)/venv:
	@echo "venv: making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "imgpull needs CPython 3.11 or later: make PYTHON=python3.x")'
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/demo: EXTRAS = fast,progress,plot
$(STAMPS)/test: EXTRAS = test
$(STAMPS)/dev: EXTRAS = dev
$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/dev: $(STAMPS)/venv $(METADATA)
	@echo "venv: installing imgpull[$(EXTRAS)]"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@
