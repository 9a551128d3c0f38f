# The two commands of the README: `make repro` and `make test`. Both make .venv first, once.
PYTHON ?= python3
BIN := .venv/bin

repro: .venv/installed
	$(BIN)/dvc repro

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; run make PYTHON=<path>")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[he,robust,test]'
	touch $@

clean:
	rm -rf .venv

.PHONY: repro test clean
