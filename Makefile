# `make help` lists what there is.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt
FIRST_QUARTER := 2013-01-01...2013-03-31
NEXT_DAY := 2013-04-01

.PHONY: help demo test check bench docs ui stress format clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 10

.stamps/venv: pyproject.toml constraints.txt
	@mkdir -p .stamps
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (once)"
	@test -x $(BIN)/uv || $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(INSTALL) -e '.[demo]'
	@touch $@

.stamps/dev: .stamps/venv
	@echo "installing what the tests need (once)"
	@$(INSTALL) -e '.[all,dev]'
	@touch $@

.stamps/system: .stamps/dev
	@if ! command -v chromium >/dev/null; then \
	  if [ "$$(id -u)" = 0 ]; then echo "installing chromium (once)"; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >/dev/null; \
	  else echo "chromium is missing: install it, the tests of pages need it" && exit 1; fi; fi
	@touch $@

demo: .stamps/venv ## from raw files to a champion that predicts the next day, on real flights
	@$(BIN)/mlops run --select 'not key:"predictions/*"' --partitions $(FIRST_QUARTER) --as-of $(NEXT_DAY)T00:00-04:00
	@echo; echo "the next day: $(NEXT_DAY)"
	@$(BIN)/mlops run --select 'key:"dataset/*" or key:"features/*" or key:"predictions/*"' --partitions $(NEXT_DAY)
	@echo; echo "make ui opens the Dagster web UI on this instance."

ui: .stamps/venv ## the Dagster web UI on the same instance
	@$(BIN)/mlops ui

test: .stamps/system ## all tests
	@$(BIN)/python -m pytest

check: .stamps/dev ## lint, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: .stamps/dev ## benchmarks against peers; results in bench/results
	@$(INSTALL) deltalake metaflow
	@$(BIN)/python -m bench

docs: .stamps/system ## pictures of the running web UI for docs/
	@$(BIN)/python docs/pictures.py

stress: .stamps/dev ## the long form of the lake's stress test
	@$(BIN)/python -m tests.stress.lake_stress --rounds 30

format: .stamps/dev ## write the format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean: ## remove what was made, the environment included
	@rm -rf .venv .stamps .mlops .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
