# What people do here. `make demo` and `make test` need nothing but Debian or Ubuntu and Python >= 3.11.

PYTHON ?= python3
T ?= two-homes
ALL ?=
ROUNDS ?= 10
BIN := .venv/bin

.PHONY: help setup demo matrix punches resuming nats links peers images compose-check interop netem-check up run capture explain doctor test again test-long check lint types unit lab-tests format bench fuzz docs lock proto clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: $(BIN)/.ready ## make .venv and install what is missing

$(BIN)/.ready: requirements.lock pyproject.toml .ci/setup
	@PYTHON="$(PYTHON)" sh .ci/setup
	@touch $@

demo: setup ## punch through all 25 pairs of classical NATs, over TCP and over QUIC; RUNNER=container: in containers
	@$(BIN)/punchlab matrix $(if $(RUNNER),--runner $(RUNNER))

matrix: setup ## the same; ARGS="--jobs 2 --repeat 3" for more
	@$(BIN)/punchlab matrix $(ARGS)

nats: setup ## build every NAT preset, measure it, compare with what it declares; ALL=1: every NAT that has rules
	@$(BIN)/punchlab nats $(if $(ALL),--all) $(ARGS)

punches: setup ## ten rounds of the matrix over three kinds of link, hours; ROUNDS=2 ARGS="--jobs 2" for less; then `make docs`
	@for link in "loss=1%" "latency=20ms loss=1%" "latency=150ms loss=1%"; do \
	  $(BIN)/punchlab matrix --link "$$link" --repeat $(ROUNDS) --save docs/punches.json $(ARGS) || true; done

resuming: setup ## have things happen to two peers that talk, and take the seconds without traffic, half an hour; then `make docs`
	@$(BIN)/punchlab resuming --save docs/resuming.json $(ARGS)

links: setup ## ask links for delay, loss, rates, …, one at a time, and measure what they do
	@$(BIN)/punchlab links $(ARGS)

peers: ## build the peers of other implementations for which this machine has toolchains; IMPL="go rust" for some
	@compose/peers/build $(IMPL)

interop: setup ## try all implementations together, every pair of values; FULL=1: every combination; RUNNER=container: their images
	@$(if $(filter container,$(RUNNER)),compose/build node go rust js py,compose/peers/build) || \
	  echo "interop: the matrix goes on without what could not be built"
	@$(BIN)/punchlab matrix --check all $(if $(FULL),--full) $(if $(RUNNER),--runner $(RUNNER)) $(ARGS)

images: setup ## build the images of our node, the whole lab, and the other implementations' peers; IMAGES="node lab" for some
	@compose/build $(IMAGES)

compose-check: setup ## try compose/compose.yaml with each compose that is here: the lab in a container, nodes to talk to
	@compose/build node lab
	@$(BIN)/pytest -q -rs tests/lab/test_compose.py

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

again: setup ## run the few tests that failed in the last `make test` once more, alone: flaky or failing
	@$(BIN)/python .ci/again.py

netem-check: setup ## links by netem, measured and tested; in an emulated Debian kernel where this one has no netem
	@sh .ci/netem $(SAVE)

test-long: setup ## the long grids: every NAT with all its traps, ten rounds of the truth table, one of punches over bad links
	@$(BIN)/punchlab nats --all --full
	@$(BIN)/punchlab truth --rounds 10
	@$(BIN)/punchlab truth --ip ipv6
	@$(BIN)/punchlab matrix --transport tcp,quic,tcp+quic --link "latency=20ms loss=1%"
	@PUNCHLAB_LONG=1 $(BIN)/pytest tests/lab/test_resuming.py tests/lab/test_upstream.py

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

fuzz: setup ## feed broken input to all that reads what strangers send; SECONDS=1800
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60)

docs: setup ## write the generated pages anew
	@$(BIN)/python -m lab.report.natdoc
	@$(BIN)/python -m lab.report.linkdoc
	@$(BIN)/python -m lab.report.punchdoc
	@$(BIN)/python -m lab.report.resumedoc
	@$(BIN)/python -m node.configdoc

clean: ## forget the virtual environment and all runs
	rm -rf .venv runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
