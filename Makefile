# All commands of a developer. Each target first prepares the checkout (tools/setup.sh); the second time it is quick.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Both workers of a test run import all modules and rewrite all tests: the bytecode is kept, or each run pays 6 s of CPU.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
SOURCES := protocol node cloud lab demo benchmarks tests tools
ARGS ?=
# Tests wait for processes and disks for half of their time, so two cores serve four workers.
WORKERS ?= 4
# The quick tests write their files into memory, where tests may run the scripts they write there.
MEMORY ?= $(shell findmnt --noheadings --output OPTIONS /dev/shm 2>/dev/null | grep -qv noexec && echo /dev/shm || echo /tmp)
MINUTES ?= 10
PART ?=
DIR ?=
RAISE ?=

.PHONY: help setup demo test unit check bench coverage drills machine test-system real-ek api-fuzz packages fmt up lock clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Debian packages that are missing, and .venv with the locked libraries
	@tools/setup.sh

demo: setup ## one machine from bare hardware to licensed, offline and revoked, on real parts
	@$(BIN)/python -m demo $(ARGS)

test: setup ## every test; a skipped, xfailed or deselected test is a failure
	@CASCADE_NO_SKIPS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

unit: setup ## the quick tests: all except tests/system and tests marked slow
	@CASCADE_QUICK=1 TMPDIR=$(MEMORY) $(BIN)/python -m pytest -n 3 --dist worksteal --ignore=tests/system -m "not slow" $(ARGS)

check: setup ## ruff, mypy --strict, import contracts, the tree, its tests, the pages, the API, the events, the changelog
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy $(SOURCES)
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tools.tree
	@$(BIN)/python -m tools.mirror
	@$(BIN)/python -m tools.docs
	@$(BIN)/python -m tools.words
	@$(BIN)/python -m tools.openapi
	@$(BIN)/python -m tools.events_schemas
	@$(BIN)/python -m tools.problem_pages
	@$(BIN)/python -m tools.changelog check

bench: setup ## benchmarks: each figure and its ratio to a floor of the same run
	@$(BIN)/python -m benchmarks $(ARGS)

coverage: setup ## every test under coverage.py; fails under a floor of tests/coverage_floor.json (RAISE=--raise)
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest -n 2 --dist worksteal $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m tools.coverage $(RAISE)

drills: setup ## what is long, loud or needs root: PART=name runs one, no PART lists them
	@$(BIN)/python -m tests.drills $(PART) $(ARGS)

machine: setup ## hardware events on whole machines in QEMU with a kernel's TPM; needs root and QEMU
	@$(BIN)/python -m tests.drills machine $(ARGS)

test-system: setup ## the packages on whole machines of Debian 12 and 13, and the cloud's package; needs root and QEMU
	@$(BIN)/python -m tests.drills system $(ARGS)

real-ek: setup ## verdicts on a folder of real EK certificates, compared with its README (DIR=folder)
	@test -n "$(DIR)" || { echo 'name the folder: make real-ek DIR=../shared/ek' >&2; exit 2; }
	@$(BIN)/python -m tests.drills real-ek --dir "$(DIR)" $(ARGS)

api-fuzz: setup ## requests made from the API documents, as each kind of caller, for MINUTES=10
	@$(BIN)/python -m tests.drills api-fuzz --minutes $(MINUTES) $(ARGS)

packages: setup ## cascadia and cascade-cloud as deb and rpm, in dist/; needs root, debootstrap and a network
	@$(BIN)/python -m tools.packages $(ARGS)

fmt: setup ## format, and apply the fixes of ruff
	@$(BIN)/ruff check --fix-only --exit-zero $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

up: setup ## a development cloud in var/cloud, in the foreground
	@test -e var/cloud || { mkdir -p var && $(BIN)/cascade init --dir var/cloud; }
	@exec $(BIN)/cascade up --dir var/cloud

# This target does not need `setup`, because `setup` refuses a lock that is older than pyproject.toml.
lock: ## remake the hashed locks (ARGS=--upgrade: newest releases)
	@test -x $(BIN)/pip-compile || tools/setup.sh
	@tools/lock.sh $(ARGS)

clean: ## remove .venv, caches and var with the development cloud in it
	rm -rf .venv .setup.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* build dist var *.egg-info
	find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +
