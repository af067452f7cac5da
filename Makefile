# Every verb runs in .venv, which is made on first use; `make` alone lists the verbs.

PYTHON ?= python3
# The torch requirement, installed first so that the package's own range finds it satisfied: TORCH=torch==2.13.0
TORCH ?= torch
DEMO_ARGS ?=
# Which of benchmarks/*.py `make bench` runs.
BENCH ?= hopper
BENCH_ARGS ?=
PYTEST_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: venv demo test lint format type docs bench clean help

# Networks this small lose more to handing work between threads than they gain; processes are the way to more speed.
demo test bench: export OMP_NUM_THREADS ?= 1

venv: $(STAMP) ## make .venv with every extra

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo 'error: Python 3.10 or newer is needed, `$(PYTHON)` is older or missing; try: make venv PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo 'error: `$(PYTHON)` cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install "$(TORCH)"
	$(BIN)/python -m pip install --editable ".[all,docs,tests]"
	@touch $@

demo: venv ## train a small robust agent, attack it, report (DEMO_ARGS)
	$(BIN)/python -m sb3_barpo demo $(DEMO_ARGS)

test: venv ## the default tests (PYTEST_ARGS, e.g. '-m slow' or '-n 4')
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup $(PYTEST_ARGS)

lint: venv ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: venv ## put style and formatting right
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

type: venv ## check types
	$(BIN)/mypy

docs: venv ## build the documentation into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going docs docs/_build/html

bench: venv ## run a benchmark, or resume it (BENCH=four_tasks|hopper|budgets|attacks|speed|warm_start|breadth, BENCH_ARGS, e.g. --help)
	$(BIN)/python benchmarks/$(BENCH).py $(BENCH_ARGS)

clean: ## remove caches and built files; .venv stays
	rm -rf build dist *.egg-info docs/_build htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
