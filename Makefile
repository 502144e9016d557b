# Everything a person or CI does with this repository. `make` alone explains.
#
# .venv is made once; the stamp files in it say what is installed, and are made again when pyproject.toml or
# constraints.txt change, so that a second run starts at once. `make serve` installs what serving needs and no more.

PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	command -v $$name >/dev/null && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$name && break; \
	done)
# Not `?=`: a PORT in the environment is usually somebody else's.
MODEL =
PORT =
QUANTIZE =
ARGS =
COVERED := tests/policy tests/contract
# They compile the engine's kernels, once: else each of the processes that come after would, all at a time.
FIRST := tests/worker/test_meter.py tests/worker/kv/test_loop.py
# They measure running systems, so nothing else runs beside them.
ALONE := $(wildcard tests/e2e/test_diagnosis*.py)
# Byte code is made as modules are imported: most of what is installed never is. Then it must be kept, whatever the
# environment says: without it each process compiles PyTorch anew, which takes longer than all else that it does at start.
export PYTHONDONTWRITEBYTECODE =
PIP := .venv/bin/python -m pip install --no-compile -q --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test covered apart quick check fmt bench reference constraints clean

help: ## this text
	@echo "Tokenworks. Start with: make serve"
	@echo
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo
	@echo 'Variables: MODEL=/path/to/checkpoint  PORT=8001  QUANTIZE=int8  ARGS="--workers 2"  PYTHON=python3.12'

serve: .venv/.runtime ## serve the embedded model, or MODEL=..., at PORT=... (8000); more options in ARGS="..."
	@.venv/bin/tokenworks serve $(if $(MODEL),"$(MODEL)") $(if $(PORT),--port $(PORT)) \
		$(if $(QUANTIZE),--quantize $(QUANTIZE)) $(ARGS)

# Types and covered tests compute all the time, and nicely; the tests apart wait for other processes half of the time, so
# there are more of their workers than cores of a small machine, in the order of tests/conftest.py, long files first. A
# fixed hash seed: its processes must name the tests alike.
test: .venv/.dev ## everything that CI runs: style, types, all tests, full branch coverage of decisions and wire formats
	@$(MAKE) --no-print-directory -j 3 check covered apart
	.venv/bin/pytest -q $(ALONE) $(ARGS)

apart: .venv/.dev
	.venv/bin/pytest -q $(FIRST) $(ARGS)
	PYTHONHASHSEED=0 .venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder \
		$(addprefix --ignore=,$(COVERED) $(FIRST) $(ALONE)) $(ARGS)

covered: .venv/.dev
	nice .venv/bin/coverage run --branch --include='src/tokenworks/policy/*,src/tokenworks/contract/*' \
		-m pytest -q $(COVERED) $(ARGS)
	.venv/bin/coverage report --show-missing --skip-covered --fail-under=100

quick: .venv/.dev ## the tests that take moments
	.venv/bin/pytest -q -m "not slow" $(ARGS)

check: .venv/.dev ## style and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	nice .venv/bin/mypy

fmt: .venv/.dev ## format the code, and correct what can be corrected without thought
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

bench: .venv/.runtime ## measure a running server: ARGS="http://127.0.0.1:8000 --concurrency 8"
	@.venv/bin/tokenworks bench $(ARGS)

reference: .venv/.runtime ## write docs/reference/ again from the code
	.venv/bin/python -m tokenworks.cli.reference

constraints: .venv/.dev ## pin what is installed now in constraints.txt
	@sed -n '/^#/p' constraints.txt > .venv/constraints
	.venv/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//' | sort -f >> .venv/constraints
	@mv .venv/constraints constraints.txt

clean: ## remove .venv and everything that was built or cached
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is no Python 3.11 or newer; name one: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Making .venv with $(PYTHON) and installing what is needed: minutes the first time, seconds later."
	@# Debian splits ensurepip off into python3-venv; without it, the system's pip puts pip there.
	@rm -rf .venv; $(PYTHON) -c 'import ensurepip' 2>/dev/null && $(PYTHON) -m venv .venv || \
		{ rm -rf .venv; $(PYTHON) -m venv --without-pip .venv && \
		$(PYTHON) -m pip --python .venv/bin/python install -q --disable-pip-version-check pip; } || \
		{ rm -rf .venv; echo "Cannot make .venv. On Debian: sudo apt install python3-venv"; exit 1; }

.venv/.runtime: .venv/bin/python pyproject.toml constraints.txt setup.py $(wildcard src/tokenworks/engine/native/csrc/*)
	$(PIP) -e .
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt setup.py $(wildcard src/tokenworks/engine/native/csrc/*)
	$(PIP) -e '.[dev]'
	@touch .venv/.runtime $@
