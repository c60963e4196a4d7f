# Every target makes its own virtual environment; PYTHON= and VENV= choose another.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$candidate && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := $(shell sed -n 's/^torch==/&/p' constraints.txt)
PYTEST_ARGS ?= -n 2 --dist worksteal

DEMO_OUT := invarlock-out
# From the user's own key, never from the pack that it is to be compared with.
FINGERPRINT := $(BIN)/python scripts/user_fingerprint.py

.PHONY: help dev-install demo test lint format format-check types layers docs bench verify clean \
	evidence-statistics evidence-guards evidence-guards-models evidence-mutation evidence-detection \
	evidence-speed evidence-tamper tuned

help:
	@echo 'make demo     both shipped models through suite demo, then verify the evidence pack'
	@echo 'make test     the tests; PYTEST_ARGS="-n0 -k word" for some'
	@echo 'make verify   tests, lint, format check, types, layer rules, docs'
	@echo 'make lint, format, docs, bench, tuned, dev-install, clean'
	@echo 'make evidence-statistics, evidence-guards, evidence-mutation, evidence-detection:'
	@echo '               the pages under docs/measured'
	@echo 'make evidence-speed: verification and hashing beside their goals'
	@echo 'make evidence-tamper    every byte of a small pack changed: is it found?'

$(READY): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'no Python 3.11 or newer on PATH: set PYTHON=' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# By itself and pinned: a later release may pull gigabytes of accelerator libraries.
	@# Python compiles what is imported; compiling all that is installed takes a minute.
	$(BIN)/python -m pip install --quiet --no-compile '$(TORCH)' -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-compile -e '.[dev]' -c constraints.txt
	touch $@

dev-install: $(READY)

demo: $(READY)
	$(BIN)/pytest --invarlock-suite=demo --invarlock-out=$(DEMO_OUT) --invarlock-signing-key=auto
	$(BIN)/invarlock verify $(DEMO_OUT)/latest/evidence_pack \
		--expected-fingerprint "$$($(FINGERPRINT))"

test: $(READY)
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: $(READY)
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

layers: $(READY)
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/suite_overhead.py

# Draws fresh seeds and rewrites docs/measured/statistics.md; about six minutes on one core.
evidence-statistics: $(READY)
	$(BIN)/python benchmarks/evidence_statistics.py

# Further training seeds of both architectures, and a model with experts, kept in benchmarks/.models:
# about six minutes each with GUARDS_SHARE=.4 of the shipped models' steps on an idle core. What is
# there is not trained anew.
GUARDS_SHARE ?= 0.4
evidence-guards-models: $(READY)
	$(BIN)/python benchmarks/guards_models.py --share $(GUARDS_SHARE)
	$(BIN)/python benchmarks/guards_models.py --share 0.2 --seeds 1 --architectures mixtral

# Rewrites docs/measured/guards.md: 160 benign and 130 damaged runs on each model that is there. A
# run that was broken off goes on with GUARDS_ARGS="--seed N", N as it was printed.
GUARDS_ARGS ?= --jobs 2
evidence-guards: evidence-guards-models
	$(BIN)/python benchmarks/evidence_guards.py $(GUARDS_ARGS)

# Mutants of the judges, of decide, and samples of the checks and measures (all of them with --full);
# rewrites docs/measured/mutation.md. Not for Windows: each mutant is tested in a forked process.
MUTATION_ARGS ?= --jobs 2
evidence-mutation: $(READY)
	$(BIN)/python benchmarks/evidence_mutation.py $(MUTATION_ARGS)

# Suite full on both shipped models; rewrites docs/measured/detection.md. About ten minutes.
DETECTION_ARGS ?= --jobs 2
evidence-detection: $(READY)
	$(BIN)/python benchmarks/evidence_detection.py $(DETECTION_ARGS)

# CPU and memory of verifying 200 certificates; the rate of hashing beside sha256sum's. One minute.
evidence-speed: $(READY)
	$(BIN)/python benchmarks/evidence_speed.py

# One bit of every byte of a small pack, each flip verified; TAMPER_ARGS="--bits 8" for all bits.
evidence-tamper: $(READY)
	$(BIN)/python scripts/evidence_tamper.py $(TAMPER_ARGS)

# The shipped models' own clean parameters, searched by the option that users have; two minutes.
tuned: $(READY)
	$(BIN)/pytest --invarlock-suite=edits --invarlock-tune --invarlock-tier=balanced \
		--invarlock-profile=dev --invarlock-out=$(DEMO_OUT)
	cp $(DEMO_OUT)/latest/tuned_edit_params.json policies/tuned/builtin.json

verify: test lint format-check types layers docs

# Keeps the virtual environment and the runs under invarlock-out.
clean:
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
