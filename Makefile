# Developer commands. They use the active environment, or else .venv, as tools/setup_env.sh does.
SHELL := /bin/bash
ifneq ($(VIRTUAL_ENV),)
PYTHON := $(VIRTUAL_ENV)/bin/python
else ifneq ($(filter-out base,$(if $(CONDA_PREFIX),$(CONDA_DEFAULT_ENV))),)
PYTHON := $(CONDA_PREFIX)/bin/python
else
PYTHON := .venv/bin/python
endif

# pytest workers: one for each core, at most 8. A worker needs up to 6 GB of memory.
PYTEST_WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 8 ? cores : 8)))
# Files stay whole, since they share fixtures; those with slow tests come first (tests/conftest.py).
# Without bytecode, every process that the tests start compiles our code again.
PYTEST = PYTHONDONTWRITEBYTECODE= $(PYTHON) -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help demo install format lint types test-fast test test-all test-faults check lock \
	docs docs-packages serve bench bench-check

help:
	@echo 'make demo         install what is missing, train CoTAP on toy scenes, write a report'
	@echo 'make install      install everything that tests and downstream training need'
	@echo 'make format       format the code and fix imports'
	@echo 'make lint         check style, formatting and spelling'
	@echo 'make types        check types'
	@echo 'make test-fast    run the tests that need neither several processes nor much time (2 minutes)'
	@echo 'make test         also run a training, a resume, two ranks, all configs and tools (5 minutes)'
	@echo 'make test-all     run all tests (15 minutes)'
	@echo 'make test-faults  inject 200 random faults, and run the long versions of docs/reliability.md'
	@echo 'make check        lint, types and all tests: what CI runs'
	@echo 'make bench        measure all ratios of docs/performance.md, and record them (20 minutes)'
	@echo 'make bench-check  measure them, and fail if one is worse than its last record'
	@echo 'make docs         build the documentation in site/; fails on a broken link or a missing docstring'
	@echo 'make serve        show the documentation at http://127.0.0.1:8000 while you write'
	@echo 'make lock         pin and hash the installed packages in requirements/lock (needs uv)'

demo:
	@tools/setup_env.sh --lite
	$(PYTHON) -W ignore tools/demo.py $(DEMO_ARGS)

install:
	@tools/setup_env.sh --full

format: install
	$(PYTHON) -m ruff check --select I --fix .
	$(PYTHON) -m ruff format .

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m codespell_lib .

types: install
	$(PYTHON) -m mypy

test-fast: install
	$(PYTEST) -m 'not (slow or dist)' $(PYTEST_ARGS)

test: install
	$(PYTEST) -m 'smoke or not (slow or dist)' $(PYTEST_ARGS)

test-all: install
	$(PYTEST) $(PYTEST_ARGS)

test-faults: install
	COTAP_FAULTS=200 COTAP_KILLS=200 COTAP_SOAK_STEPS=3000 $(PYTHON) -m pytest -s \
		tests/helpers/fault_harness tests/engine/resume/test_checkpoint_files.py \
		tests/engine/test_killed_trainings.py tests/engine/test_soak.py

check: lint types test-all

bench: install
	$(PYTHON) -W ignore tools/benchmark.py ratios --record $(BENCH_ARGS)

bench-check: install
	$(PYTHON) -W ignore tools/benchmark.py ratios --check $(BENCH_ARGS)

# They need neither PyTorch nor the tests; only a missing .venv is set up as for the demo.
docs-packages:
	@test -x '$(PYTHON)' || tools/setup_env.sh --lite
	@$(PYTHON) -c 'import material, mkdocs, mkdocstrings_handlers.python' 2> /dev/null \
		|| $(PYTHON) -m pip install -q -r requirements/docs.txt \
		|| uv pip install -q --python $(PYTHON) -r requirements/docs.txt

docs: docs-packages
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

serve: docs-packages
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs serve

lock: install
	PYTHON=$(PYTHON) tools/lock_requirements.sh
