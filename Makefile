# What people do here. `make demo` and `make test` need nothing but Debian or Ubuntu and Python >= 3.11.

PYTHON ?= python3
T ?= two-homes
ALL ?=
BIN := .venv/bin

.PHONY: help setup demo matrix nats links up run capture explain doctor test test-long check lint types unit lab-tests format bench docs lock proto clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(BIN)/.ready ## make .venv and install what is missing

$(BIN)/.ready: requirements.lock pyproject.toml .ci/setup
	@PYTHON="$(PYTHON)" sh .ci/setup
	@touch $@

demo: setup ## punch through all 25 pairs of classical NATs and show the matrix
	@$(BIN)/punchlab matrix

matrix: setup ## the same; ARGS="--jobs 2 --repeat 3" for more
	@$(BIN)/punchlab matrix $(ARGS)

nats: setup ## build every NAT preset, measure it, compare with what it declares; ALL=1: every NAT that has rules
	@$(BIN)/punchlab nats $(if $(ALL),--all) $(ARGS)

links: setup ## ask links for delay, loss, rates, …, one at a time, and measure what they do
	@$(BIN)/punchlab links $(ARGS)

up: setup ## make up T=two-homes: build it, start the peers, stay until Ctrl-C
	@$(BIN)/punchlab up $(T) $(ARGS)

run: setup ## make run T=two-homes: one scenario and its verdict
	@$(BIN)/punchlab run $(T) $(ARGS)

capture: setup ## make capture T=two-homes: run it and show what its capture holds
	@$(BIN)/punchlab run $(T) $(ARGS)
	@$(BIN)/punchlab capture latest

explain: setup ## the newest run, packet by packet
	@$(BIN)/punchlab explain latest $(ARGS)

doctor: setup ## what this machine offers, and what to do where something is missing
	@$(BIN)/punchlab doctor

test: setup lint types ## everything: lint, types, architecture, unit, conformance and lab tests
	@$(BIN)/pytest -n auto tests

test-long: setup ## the long grids: every NAT with all its traps, ten rounds of the truth table
	@$(BIN)/punchlab nats --all --full
	@$(BIN)/punchlab truth --rounds 10

check: setup lint types unit ## what to run before a commit; under a minute

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: setup
	@$(BIN)/mypy

unit: setup ## all tests that need no namespaces
	@$(BIN)/pytest -q -n auto tests/test_architecture.py tests/unit tests/conformance

lab-tests: setup ## the tests in real namespaces
	@$(BIN)/pytest -n auto tests/lab

format: setup ## let ruff lay out the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup ## the numbers, as ratios in one run
	@$(BIN)/python -m tests.bench $(ARGS)

docs: setup ## write the generated pages anew
	@$(BIN)/python -m lab.report.natdoc
	@$(BIN)/python -m lab.report.linkdoc

clean: ## forget the virtual environment and all runs
	rm -rf .venv runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
