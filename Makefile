# demo and test build .venv by themselves; nothing here needs ../shared.
SHELL   := /bin/bash
VENV    ?= .venv
PY      := $(VENV)/bin/python
PIP     := $(PY) -m pip install -qq --disable-pip-version-check
BASE    := $(VENV)/.installed-base
DEV     := $(VENV)/.installed-dev
CORE    := build/.core-built
# The first interpreter that answers and is new enough; a pyenv shim may exist and still not answer.
PYTHON  ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
             $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
COUNT   ?= 100000
SECONDS ?= 30

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint typed-tree test-aarch64 fuzz fuzz-core bench wheels clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(BASE) $(CORE) ## encode examples/photos, print bytes, classes and boxes, draw out/demo.png
	@$(PY) examples/demo.py

test: $(DEV) $(CORE) lint ## lint, types and all tests
	@$(PY) -m pytest -n auto --durations=12

lint: $(DEV) typed-tree ## ruff, mypy, and the import contracts
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@cd build/typed && $(CURDIR)/$(VENV)/bin/lint-imports --no-cache --no-logo $(CURDIR)/pyproject.toml > lint-imports.log || { cat lint-imports.log; exit 1; }

# mypy and import-linter read no import hooks, so they are shown the tree as it is installed.
typed-tree:
	@rm -rf build/typed && mkdir -p build/typed
	@tar cf - --exclude packages --exclude __pycache__ cdvision | tar xf - -C build/typed
	@tar cf - --exclude __pycache__ heads export | tar xf - -C build/typed/cdvision

test-aarch64: $(DEV) $(CORE) ## golden streams, every codec and a receiver bundle on an emulated aarch64 (needs qemu-user-static)
	@$(PY) tests/aarch64/emulate.py

fuzz: $(BASE) $(CORE) ## read COUNT mutated streams (100,000): a result or a BitstreamError, nothing else
	@$(VENV)/bin/cdvision bench fuzz --count $(COUNT)

fuzz-core: $(BASE) $(CORE) ## the C core under sanitizers: SECONDS (30) a target of libFuzzer, then COUNT spoiled streams
	@$(PY) tests/fuzz/fuzz_core.py --seconds $(SECONDS) --count $(COUNT)

bench: $(BASE) $(CORE) ## time the entropy coder and the whole chain on this machine
	@$(VENV)/bin/cdvision bench entropy
	@$(VENV)/bin/cdvision bench speed

wheels: $(BASE) ## an sdist and a wheel for each platform in dist/; MATRIX=1 tries each CPython here
	@$(PIP) build auditwheel setuptools ziglang
	@$(PY) build_wheels.py $(if $(MATRIX),--matrix)

clean: ## remove what the other targets made, .venv included
	@rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@test -n "$(PYTHON)" || { echo "make: cdvision needs Python 3.10 or newer; none found (set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# The install compiles the core; this does so again when a C file has changed.
$(CORE): $(wildcard cdvision/core/*.c cdvision/core/*.h) build_core.py | $(BASE)
	@mkdir -p build
	@$(PY) build_core.py > /dev/null
	@touch $@

$(BASE): pyproject.toml | $(PY)
	@echo "installing cdvision into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(DEV): pyproject.toml | $(PY)
	@echo "installing cdvision and what its tests need into $(VENV) (torch is large: minutes the first time)"
	@$(PIP) -e '.[dev]'
	@touch $@ $(BASE)
