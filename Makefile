# The commands of the project. Each of them sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OPTIINFRA_DATA_DIR ?= $(CURDIR)/.data/postgres
# Further arguments of the command behind a target: make rollback ARGS=--all
ARGS ?=
# PostgreSQL that the tests run on: 18 (embedded) or another one whose binaries are installed.
PG ?= 18

.DEFAULT_GOAL := help
.PHONY: help demo migrate rollback status seed psql stop generate verify docs lint types test \
	soak plans bench bench-quick check build clean

help: ## Show this help
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' \
		$(MAKEFILE_LIST)

demo: $(VENV)/run ## Record a workflow and show it (OPTIINFRA_DATABASE_URL, else the embedded one)
	@$(BIN)/optiinfra-db demo $(ARGS)

migrate: $(VENV)/run ## Bring the database up to date (OPTIINFRA_DATABASE_URL, else the embedded one)
	@$(BIN)/optiinfra-db migrate $(ARGS)

rollback: $(VENV)/run ## Undo the last migration (ARGS="--to N" or ARGS=--all for more)
	@$(BIN)/optiinfra-db rollback $(ARGS)

status: $(VENV)/run ## Show which migrations are applied, when and by whom
	@$(BIN)/optiinfra-db status $(ARGS)

seed: $(VENV)/run ## Write the sample data
	@$(BIN)/optiinfra-db seed $(ARGS)

psql: $(VENV)/run ## Open the database in psql
	@$(BIN)/optiinfra-db psql $(ARGS)

stop: $(VENV)/run ## Stop the embedded PostgreSQL
	@$(BIN)/optiinfra-db stop $(ARGS)

generate: $(VENV)/dev ## Write generated/ and the pages of docs/ that come from schema/ and queries/
	@$(BIN)/python codegen/generate.py

verify: $(VENV)/dev ## Check that what generate writes is current
	@$(BIN)/python codegen/generate.py --check

docs: $(VENV)/dev ## Build the documentation into site/
	$(BIN)/zensical build --strict --clean

lint: $(VENV)/dev ## Check the style of Python and SQL, and the safety of migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/sqlfluff lint schema queries
	$(BIN)/squawk schema/migrations/*.sql

types: $(VENV)/dev ## Check the types, with mypy and pyright
	$(BIN)/mypy
	$(BIN)/pyright

test: $(VENV)/dev ## Run the tests (PG=15 for another PostgreSQL, ARGS for pytest)
	$(BIN)/pytest --pg $(PG) $(ARGS)

soak: $(VENV)/dev ## Run the long versions of the tests that have one: half an hour (PG, ARGS)
	$(BIN)/pytest --pg $(PG) --soak tests/history tests/replication tests/test_feed.py tests/test_housekeeping.py $(ARGS)

plans: $(VENV)/dev ## Show the plan, rows, buffers and time of each query on a long history (PG)
	$(BIN)/pytest --pg $(PG) tests/plans --plans --quiet $(ARGS)

bench-quick: $(VENV)/dev ## Measure the package beside its peers, in under a minute (ARGS="call run")
	$(BIN)/python -m bench $(ARGS)

bench: $(VENV)/dev ## Measure in full, and write bench/results and docs/performance.md: an hour
	$(BIN)/python -m bench --scale full --publish $(ARGS)

check: verify docs lint types test ## Everything that CI runs

build: $(VENV)/dev ## Build the wheel and the sdist into dist/
	$(BIN)/python -m build

clean: ## Stop the embedded PostgreSQL and delete all that make made, its data included
	@if [ -x $(BIN)/optiinfra-db ]; then $(BIN)/optiinfra-db stop; fi
	rm -rf $(VENV) .data dist site .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(VENV)/bin/python pyproject.toml
	@echo "Installing what the package needs ..."
	@$(BIN)/python -m pip install --editable '.[embedded]'
	@touch $@

$(VENV)/dev: $(VENV)/bin/python pyproject.toml
	@echo "Installing what development needs (about a minute the first time) ..."
	@$(BIN)/python -m pip install --editable '.[dev]'
	@touch $(VENV)/run $@
