# Everything happens inside this folder and without root: the environment lives in .venv, and uv in
# .uv where the machine has none. A second call finds .venv/.ready and touches neither disk nor network.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help lab test test-all stress run site check lock clean

# The first Python >= 3.11 on PATH; `make PYTHON=...` names another. Looked up only during set-up.
PYTHON ?= $(or $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done),\
	$(error Python 3.11 or newer is needed; none found on PATH; install one or name it: make PYTHON=/path/to/python3.11))
UV := $(if $(shell command -v uv),uv,.uv/bin/uv)
# `vlcl`, `python` and `jupyter` of the environment, also for what tests and notebooks start.
IN_ENV := PATH="$(CURDIR)/.venv/bin:$$PATH"

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1 - /p' Makefile

lab: .venv/.ready ## set up, then open the first notebook in JupyterLab; LAB_ARGS="--no-browser --port 9999"
	$(IN_ENV) jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir="$(CURDIR)" \
		--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(LAB_ARGS)

# Two workers with one thread each: a file of tests, or a notebook, at a time on each of two cores, in
# the order of tests/conftest.py (the longest first) instead of xdist's own.
PYTEST := OMP_NUM_THREADS="$${OMP_NUM_THREADS:-1}" pytest -n 2 --dist loadfile --no-loadscope-reorder

test: .venv/.ready ## set up, then the first tier of tests and every notebook; TEST_ARGS="-k packaging"
	$(IN_ENV) $(PYTEST) -m "not slow" $(TEST_ARGS)

test-all: test ## the same, then the second tier: what is marked `slow`
	$(IN_ENV) $(PYTEST) -m slow $(TEST_ARGS)

stress: .venv/.ready ## set up, then kills, damaged files, bad input and full disks, counted; STRESS_ARGS="--kills 200"
	$(IN_ENV) OMP_NUM_THREADS="$${OMP_NUM_THREADS:-1}" python tests/stress $(STRESS_ARGS)

run: .venv/.ready ## set up, then every method on the embedded stream; results in runs/main
	$(IN_ENV) vlcl compare --stream mini --methods all --out runs/main

site: .venv/.ready ## set up, then every notebook executed into a static site: site/index.html
	$(IN_ENV) OMP_NUM_THREADS="$${OMP_NUM_THREADS:-1}" python docs/make_site.py

check: .venv/.ready ## set up, then lint, format and types
	$(IN_ENV) ruff check .
	$(IN_ENV) ruff format --check .
	$(IN_ENV) mypy

# Keeps the present pins where they still fit; LOCK_ARGS=--upgrade moves to the newest.
lock: | $(filter .uv/bin/uv,$(UV)) ## write requirements.lock from pyproject.toml
	$(UV) pip compile pyproject.toml --group dev --output-file requirements.lock --quiet --universal --python-version 3.11 \
		--fork-strategy fewest --no-header --no-annotate $(LOCK_ARGS)

clean: ## remove the environment and the caches, never results
	rm -rf .venv .uv .mypy_cache .pytest_cache .ruff_cache

# `sync` installs exactly the lock; the package itself is built by the environment's own hatchling, so
# that nothing outside the lock is fetched. Where Python may write no bytecode (as in many containers)
# it is compiled here, once: every start would compile again what it imports, 11 of its 17 CPU seconds.
# The page config keeps JupyterLab from looking for news.
.venv/.ready: requirements.lock pyproject.toml | $(filter .uv/bin/uv,$(UV))
	test -x .venv/bin/python || $(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	$(UV) pip sync $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode) --python .venv/bin/python requirements.lock
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	mkdir -p .venv/etc/jupyter/labconfig
	echo '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}' > .venv/etc/jupyter/labconfig/page_config.json
	touch $@

.uv/bin/uv:
	$(PYTHON) -m pip install --quiet --upgrade --target .uv uv
