# `make demo` runs the main job, `make test` the tests, `make check` proves an installation. Each sets everything up first,
# in .venv.
PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=
CHECK_ARGS ?=
TEST_ARGS ?=
SETUP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check check-gpu lint docs setup clean

help:
	@echo "make demo   train a small Qwen3 by HTPO on this machine and show what it did (set-up 2 minutes, run 3)"
	@echo "make test   run the tests (set-up 2 minutes, tests 12)"
	@echo "make check  look whether all works on this machine, on its GPU if there is one (2 minutes); make check-gpu: there must be one"
	@echo "make lint   ruff and mypy"
	@echo "make docs   the documentation, to docs/_build/html (half a minute)"
	@echo "Options: make demo DEMO_ARGS='--objective dapo --seed 1', make test TEST_ARGS='-k objective', make check CHECK_ARGS='--parts parity'."

demo: setup
	@echo "== Main job: evaluation, HTPO, evaluation, report (about 3 minutes on two cores)"
	@HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 $(VENV)/bin/htpo demo $(DEMO_ARGS)

test: setup
	@echo "== Tests (about 12 minutes on two cores)"
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal $(TEST_ARGS)

check: setup
	@$(VENV)/bin/htpo check $(CHECK_ARGS)

check-gpu: setup
	@$(VENV)/bin/htpo check --device cuda $(CHECK_ARGS)

lint: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

docs: setup
	@$(VENV)/bin/python -m sphinx -W --keep-going --nitpicky --quiet docs docs/_build/html

setup: $(SETUP)

# The tested versions, torch first: elsewhere its CPU build is chosen by an index, see README.
$(SETUP): pyproject.toml setup.cfg constraints.txt
	@echo "== Set-up in $(VENV): 2 GB of packages, about 2 minutes"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)
	@echo "== Set-up 1/2: torch"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==$$(sed -n 's/^torch==//p' constraints.txt)
	@echo "== Set-up 2/2: htpo_trl with its test tools"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
