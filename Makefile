# One entrance for everything. Each target makes the checkout ready first (tools/setup.sh), which is quick when it is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
SOURCES := protocol node cloud lab demo benchmarks tests tools
ARGS ?=
PART ?=

.PHONY: help setup demo test unit check bench drills fmt up lock clean

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Debian packages that are missing, and .venv with the locked libraries
	@tools/setup.sh

demo: setup ## one machine from bare hardware to licensed, offline and revoked, on real parts
	@$(BIN)/python -m demo $(ARGS)

test: setup ## every test; a skipped, xfailed or deselected one is a failure
	@CASCADE_NO_SKIPS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

unit: setup ## the quick tests: all but tests/system and what is marked slow
	@$(BIN)/python -m pytest -n 2 --dist worksteal --ignore=tests/system -m "not slow" $(ARGS)

check: setup ## ruff, mypy --strict, import contracts, the tree, its tests, the pages
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy $(SOURCES)
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tools.tree
	@$(BIN)/python -m tools.mirror
	@$(BIN)/python -m tools.docs

bench: setup ## benchmarks, each as a ratio to a floor measured in the same run
	@$(BIN)/python -m benchmarks $(ARGS)

drills: setup ## what is long, loud or needs root: PART=name runs one, no PART lists them
	@$(BIN)/python -m tests.drills $(PART) $(ARGS)

fmt: setup ## format, and fix what ruff can fix
	@$(BIN)/ruff check --fix-only --exit-zero $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

up: setup ## a development cloud in var/cloud, in the foreground
	@test -e var/cloud || { mkdir -p var && $(BIN)/cascade init --dir var/cloud; }
	@exec $(BIN)/cascade up --dir var/cloud

# Not after `setup`, which refuses a lock that has fallen behind pyproject.toml.
lock: ## remake the hashed locks (ARGS=--upgrade: newest releases)
	@test -x $(BIN)/pip-compile || tools/setup.sh
	@tools/lock.sh $(ARGS)

clean: ## remove .venv, caches and var with the development cloud in it
	rm -rf .venv .setup.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist var *.egg-info
	find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +
