# The commands of this project. They use the active environment, or else .venv, as
# tools/setup_env.sh does.
SHELL := /bin/bash
ifneq ($(VIRTUAL_ENV),)
PYTHON := $(VIRTUAL_ENV)/bin/python
else ifneq ($(filter-out base,$(if $(CONDA_PREFIX),$(CONDA_DEFAULT_ENV))),)
PYTHON := $(CONDA_PREFIX)/bin/python
else
PYTHON := .venv/bin/python
endif

PYTEST_WORKERS ?= 2

.PHONY: help demo test test-faults lint types check lock

help:
	@echo 'make demo   set up what is missing, train CoTAP on toy scenes, write a report'
	@echo 'make test   set up what is missing (with compiled operators), run the tests'
	@echo 'make check  lint + types + tests: what CI runs'
	@echo 'make test-faults  200 faults drawn at random, and the tests of docs/reliability.md, longer'
	@echo 'make lock   pin and hash what is installed, in requirements/lock (needs uv)'

demo:
	@tools/setup_env.sh --lite
	$(PYTHON) -W ignore tools/demo.py $(DEMO_ARGS)

test: .setup-full
	$(PYTHON) -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

test-faults: .setup-full
	COTAP_FAULTS=200 COTAP_KILLS=200 COTAP_SOAK_STEPS=3000 $(PYTHON) -m pytest -s \
		tests/fault_harness tests/engine/test_checkpoint_files.py \
		tests/engine/test_killed_trainings.py tests/engine/test_soak.py

lint: .setup-full
	$(PYTHON) -m ruff check .

types: .setup-full
	$(PYTHON) -m mypy cotap_mm/ops cotap_mm/models/losses

check: lint types test

lock: .setup-full
	PYTHON=$(PYTHON) tools/lock_requirements.sh

.PHONY: .setup-full
.setup-full:
	@tools/setup_env.sh --full
