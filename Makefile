# The commands of this repository. `make help` explains them.
# Everything is installed below the clone (.venv) and the user's cache; nothing else is touched.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint types format soak fuzz bench excerpt dagster lock clean fresh system

RUN := .venv/bin
STAMP := .venv/.synced
TESTS ?=

help: ## what each command does
	@echo "audit-platform: make <command>"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  %-10s %s\n", $$1, $$2}'
	@echo
	@echo "Options: demo EXIT=1 (stop by itself), demo FRESH=1 (forget earlier runs), demo HOSPITALS=6, test TESTS=path"

$(STAMP): requirements.lock requirements-uv.lock pyproject.toml deploy/setup.sh
	@bash deploy/setup.sh
	@touch $(STAMP)

setup: $(STAMP) ## virtual environment with locked dependencies, in .venv

demo: $(STAMP) ## a day of real bedside data: in, sealed, signed, verified; Dagster stays up until Ctrl-C
	@$(RUN)/python -m audit_platform.demo $(if $(EXIT),--exit) $(if $(FRESH),--fresh) $(if $(HOSPITALS),--hospitals $(HOSPITALS))

dagster: $(STAMP) ## Dagster's UI on the data of the demo
	@settings="$$($(RUN)/python -m audit_platform.demo --print-environment)"; eval "$$settings"; $(RUN)/dagster dev

test: $(STAMP) system ## lint, types and every test
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@$(RUN)/python -m pytest -n 2 --dist worksteal $(TESTS)

test-fast: $(STAMP) ## the tests of record/, adapters and operations only, without lint
	@$(RUN)/python -m pytest -n 2 --dist worksteal audit_platform_tests/record audit_platform_tests/adapters audit_platform_tests/contracts audit_platform_tests/operations

lint: $(STAMP) ## ruff
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .

types: $(STAMP) ## mypy, strict, over code and tests
	@$(RUN)/mypy

format: $(STAMP) ## write the code as ruff would
	@$(RUN)/ruff check --fix .
	@$(RUN)/ruff format .

soak: $(STAMP) ## every call of every port fails once; random kills under load: KILLS=200 SEED=1 (a seed replays)
	@SOAK=1 $(RUN)/python -m pytest -q audit_platform_tests/failures/test_each_port_call_fails.py
	@$(RUN)/python -m audit_platform_tests.soak $(or $(KILLS),200) $(SEED)

fuzz: $(STAMP) ## every parser of foreign bytes, with many more examples than the tests take
	@$(RUN)/python -m pytest -n 2 -q --hypothesis-profile=fuzz audit_platform_tests/fuzz

bench: $(STAMP) ## CPU per event of each step, in refs; writes docs/benchmarks.md's figures to the terminal
	@$(RUN)/python -m benchmarks

excerpt: $(STAMP) ## rebuild the packaged excerpt: make excerpt DATA=folder-of-the-source-data
	@$(RUN)/python -m audit_platform.demo.build_excerpt "$(DATA)"

lock: ## resolve the dependencies anew (needs uv)
	@.venv/.uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --group dev pyproject.toml -o requirements.lock

system: ## the system packages that tests need; installed only with CI=true or AUDIT_INSTALL=1
	@bash deploy/system-packages.sh

clean: ## remove the virtual environment and caches (not the demo's data)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

fresh: ## forget the demo's data
	@rm -rf .audit
