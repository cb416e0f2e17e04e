# Two commands: `make quickstart` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
# Naming torch with its version first keeps a CPU build where one is at hand; override for another one.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test serve lint install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml zoo/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]" -e ./zoo
	@touch $@

quickstart: install
	$(BIN)/bespoke quickstart

serve: install
	$(BIN)/bespoke serve

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) var
