# The commands of this repository. `make help` explains them.
# Everything is installed below the clone (.venv) and the user's cache; nothing else is touched.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full test-fast lint types format soak fuzz bench excerpt dagster lock clean fresh system

RUN := .venv/bin
STAMP := .venv/.synced
ON := $(if $(PROFILE),--profile $(PROFILE))

help: ## what each command does
	@echo "audit-platform: make <command>"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  %-10s %s\n", $$1, $$2}'
	@echo
	@echo "Options: demo EXIT=1 (stop by itself), demo FRESH=1 (forget earlier runs), demo HOSPITALS=6, demo PROFILE=stack (on real servers; KEEP=1 lets them run on), test TESTS=path"

$(STAMP): requirements.lock requirements-uv.lock pyproject.toml deploy/setup.sh
	@bash deploy/setup.sh
	@touch $(STAMP)

setup: $(STAMP) ## virtual environment with locked dependencies, in .venv

demo: $(STAMP) ## a day of real bedside data: in, sealed, signed, verified; Dagster stays up until Ctrl-C
	@$(RUN)/python -m audit_platform.demo $(ON) $(if $(EXIT),--exit) $(if $(FRESH),--fresh) $(if $(HOSPITALS),--hospitals $(HOSPITALS)) $(if $(KEEP),--keep-servers)

dagster: $(STAMP) ## Dagster's UI on the data of the demo
	@settings="$$($(RUN)/python -m audit_platform.demo $(ON) --print-environment)"; eval "$$settings"; $(RUN)/dagster dev

test: $(STAMP) system ## lint, types and every test but those of test-full, on real servers too
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
ifdef TESTS
	@$(RUN)/python -m pytest $(TESTS)
else
	@$(RUN)/python -m pytest -m "not full_stack" -n 2 --dist worksteal
endif

test-full: $(STAMP) system ## failures of whole clusters under load: needs 8 GB, one process, most of an hour
	@$(RUN)/python -m pytest -m full_stack

test-fast: $(STAMP) ## the tests of record/, adapters and operations that need no server, without lint
	@TESTS_STACK=none $(RUN)/python -m pytest -n 2 --dist worksteal audit_platform_tests/record audit_platform_tests/adapters audit_platform_tests/contracts audit_platform_tests/operations

lint: $(STAMP) ## ruff
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .

types: $(STAMP) ## mypy, strict, over code and tests
	@$(RUN)/mypy

format: $(STAMP) ## write the code as ruff would
	@$(RUN)/ruff check --fix .
	@$(RUN)/ruff format .

soak: $(STAMP) ## random kills under load: KILLS=200 SEED=1 (a seed replays); PROFILE=stack: of real servers
	@$(if $(PROFILE),,SOAK=1 $(RUN)/python -m pytest -q audit_platform_tests/failures/test_each_port_call_fails.py)
	@$(RUN)/python -m audit_platform_tests.soak $(ON) $(if $(KILLS),--faults $(KILLS)) $(if $(SEED),--seed $(SEED))

fuzz: $(STAMP) ## every parser of foreign bytes, with many more examples than the tests take
	@$(RUN)/python -m pytest -n 2 -q --hypothesis-profile=fuzz audit_platform_tests/fuzz

bench: $(STAMP) ## CPU per event of each step, in refs; writes docs/benchmarks.md's figures to the terminal
	@$(RUN)/python -m benchmarks

excerpt: $(STAMP) ## rebuild the packaged excerpt: make excerpt DATA=folder-of-the-source-data
	@$(RUN)/python -m audit_platform.demo.build_excerpt "$(DATA)"

lock: ## resolve the dependencies anew (needs uv)
	@.venv/.uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --group dev pyproject.toml -o requirements.lock

system: $(STAMP) ## packages and programs that tests need; packages only with CI=true or AUDIT_INSTALL=1
	@bash deploy/system-packages.sh
	@$(RUN)/audit-platform stack fetch || echo "tests that need what is missing will fail" >&2

clean: ## remove the virtual environment and caches (not the demo's data)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

fresh: ## forget the demo's data
	@rm -rf .audit
