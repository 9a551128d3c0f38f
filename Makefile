# The two commands of the README: `make repro` and `make test`. Both make .venv first, once.
PYTHON ?= python3
BIN := .venv/bin

repro: .venv/installed
	$(BIN)/dvc repro

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pip check --disable-pip-version-check
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

long: .venv/installed  # kills, fuzzing and all benchmarks on small inputs, which are no part of `make test`
	$(BIN)/python -m pytest -m long --numprocesses auto --maxprocesses 8 --dist worksteal

# every file that is installed has a hash in constraints.txt; setuptools comes first, which builds what has no wheel
INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; run make PYTHON=<path>")'
	$(PYTHON) -m venv .venv
	sed -n '/^setuptools==/,/[^\\]$$/p' constraints.txt > .venv/setuptools.txt
	$(BIN)/python $(INSTALL) --require-hashes --requirement .venv/setuptools.txt
	$(BIN)/python $(INSTALL) --require-hashes --no-build-isolation --requirement constraints.txt
	$(BIN)/python $(INSTALL) --no-build-isolation --editable .
	touch $@

# Supply chain, see docs/dependencies.md. The tools have an environment of their own.
TOOLS := build/tools
LOCK := $(TOOLS)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --quiet --custom-compile-command 'make lock'

$(TOOLS)/installed: tests/harness/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python $(INSTALL) --require-hashes --requirement tests/harness/tools.txt
	touch $@

lock: $(TOOLS)/installed  # after a change of pyproject.toml; versions stay, but for UPGRADE=--upgrade
	echo 'setuptools>=77' | $(LOCK) $(UPGRADE) --extra he --extra robust --extra keychain --extra dicom --extra heic --extra hf --extra dask --extra tune --extra test --output-file constraints.txt pyproject.toml -
	printf 'cyclonedx-bom\npip-licenses\nuv\n' | $(LOCK) $(UPGRADE) --output-file tests/harness/tools.txt -
	echo 'atheris>=3' | $(LOCK) $(UPGRADE) --output-file tests/harness/atheris.txt -

licences: .venv/installed $(TOOLS)/installed
	$(TOOLS)/bin/pip-licenses --python $(BIN)/python --from=mixed --order=license --format=markdown --no-version --with-system --ignore-packages ppvit pip --output-file docs/licences.md

sbom: .venv/installed $(TOOLS)/installed
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file build/sbom.cdx.json $(BIN)/python

READER ?= manifest
RUNS ?= 10000
fuzz: .venv/installed  # READER is one of tests/harness/fuzz_atheris.py
	$(BIN)/python $(INSTALL) --require-hashes --requirement tests/harness/atheris.txt
	$(BIN)/python tests/harness/fuzz_atheris.py $(READER) -runs=$(RUNS)

wheel: .venv/installed  # dist/ppvit-<version>-py3-none-any.whl, which `pip install` takes anywhere
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

docs: .venv/installed  # build/site/index.html
	$(BIN)/python docs/site.py
	$(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf .venv build

.PHONY: repro test lock licences sbom fuzz wheel docs clean
