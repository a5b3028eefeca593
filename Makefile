# SPDX-License-Identifier: Apache-2.0
.PHONY: help setup dev up demo test chaos fuzz check lint types style shell generated generate lock bench clean
bin := .venv/bin
# Who forbids Python to keep what it compiles pays for it at every start, and tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE
# bpf/events.h is laid out by its generator, which `generated` checks.
written_c = $(filter-out bpf/events.h,$(wildcard bpf/*.c bpf/*.h bench/*.c))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## install what hookline needs to run; quick when nothing is missing
	@deploy/setup.sh

dev: ## install what its tests and checks need too
	@deploy/setup.sh --dev

up: setup ## start everything on this machine (root); make up ARGS="--help"
	@$(bin)/hookline up $(ARGS)

demo: setup ## start everything and watch traffic of its own making
	@$(bin)/hookline demo $(ARGS)

# Two at a time, since most of them wait; a file's tests run together, and share what they start.
# Files in the order of tests/conftest.py: by their number of tests, those that take long came last.
test: dev ## run the tests; make test ARGS="-k ledger"
	$(bin)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: dev ## kill and freeze everything at random moments; make chaos ARGS="--chaos-seed 4711"
	$(bin)/pytest -s tests/chaos --chaos-events 200 $(ARGS)

fuzz: dev ## look for records, rules, files and options that break their readers; make fuzz ARGS="batches --seconds 600"
	$(bin)/python -m tests.fuzz $(ARGS)

check: lint types style shell generated ## run every check that needs no kernel and no broker

lint: dev
	$(bin)/ruff check && $(bin)/ruff format --check

types: dev
	$(bin)/mypy --strict agent consumer schemas service hookline

style: dev
	clang-format --dry-run -Werror $(written_c)

shell: dev
	shellcheck deploy/*.sh .ci/run

generated: dev
	$(bin)/python -m schemas.generate --check && $(bin)/python -m hookline.reference --check

generate: dev ## write what is derived from schemas/ and from the options
	$(bin)/python -m schemas.generate && $(bin)/python -m hookline.reference

lock: dev ## pin what pyproject.toml asks for; make lock ARGS=--upgrade for newer versions
	$(bin)/pip-compile $(ARGS) --build-deps-for editable -o requirements.lock pyproject.toml
	$(bin)/pip-compile $(ARGS) --build-deps-for editable --extra dev -o requirements-dev.lock -c requirements.lock pyproject.toml

# Without ARGS all is measured, and the tables and figures of docs/ are written anew.
bench: ## measure; every number in docs/ comes from here; make bench ARGS="kernel"
	@deploy/setup.sh --bench
	$(bin)/python -m bench $(or $(ARGS),--report)

clean: ## remove what setup and the tools made
	rm -rf .venv .kafka .kafka.new .setup.log *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
