# Each target makes what it needs first: an environment in $(VENV), with this package in it.

VENV ?= .venv
python := $(VENV)/bin/python

.PHONY: help demo test test-all lint format bench accuracy sanitize clean

help:
	@echo 'make demo      run examples/quickstart.py'
	@echo 'make test      check the style and the types, and run the tests'
	@echo 'make test-all  the same on every supported Python that is installed'
	@echo 'make lint      check the style and the types only'
	@echo 'make format    put the style right where that can be done by itself'
	@echo 'make bench     time this package beside MXFusion, Pyro and NumPyro: docs/speed.md (about 25 minutes)'
	@echo 'make accuracy  measure the log pdf against 50 digits, beside other libraries: docs/accuracy.md'
	@echo 'make sanitize  run the native engine and its fuzz with checks of memory and undefined behaviour'
	@echo 'make clean     remove what the others made'
	@echo
	@echo 'The Python is looked for; to choose it: make clean, then make PYTHON=/path/to/python ...'

demo: $(VENV)/installed-examples
	$(python) examples/quickstart.py

test: lint
	$(python) -m pytest

# Each Python in an environment of its own; all are tried, and one failure fails the whole.
test-all:
	@failed=; \
	for version in 3.8 3.9 3.10 3.11 3.12; do \
	    found=$$(PYTHON= scripts/find_python $$version 2>/dev/null) || \
	        { echo "Python $$version: not installed, skipped"; continue; }; \
	    $(MAKE) test PYTHON="$$found" VENV="$(VENV)-$$version" || failed="$$failed $$version"; \
	done; \
	[ -z "$$failed" ] || { echo "Failed on Python$$failed"; exit 1; }

lint: $(VENV)/installed-dev
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

format: $(VENV)/installed-dev
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

# `make bench options=--quick` takes a few minutes and writes nothing.
bench: $(VENV)/installed-test $(VENV)/peers/installed
	$(python) -W ignore benchmarks/speed.py $(VENV)/peers/bin/python $(options)

accuracy: $(VENV)/installed-test $(VENV)/peers/installed
	PYTHONPATH=tests $(python) benchmarks/accuracy.py $(VENV)/peers/bin/python

# A copy of the package in build/sanitized, whose engine ends the process where it leaves its memory.
checks := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined
sanitize: $(VENV)/installed-test
	CFLAGS='$(checks)' LDFLAGS='$(checks)' $(python) setup.py -q build --build-lib build/sanitized --build-temp build/objects
	cd build && export LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 && \
	    export PYTHONPATH="$(CURDIR)/build/sanitized:$(CURDIR)/tests" python='$(abspath $(python))' && \
	    "$$python" -m pytest -q $(CURDIR)/tests/test_native_[!b]*.py && "$$python" -m helpers.native_fuzz --graphs 500

# In an environment of their own: JAX needs a newer NumPy than MXNet allows, and a newer Python than 3.8.
# The list of what is in it is here, so it follows this file.
$(VENV)/peers/installed: $(VENV)/made Makefile
	found=$$(PYTHON= scripts/find_python 3.11 || PYTHON= scripts/find_python 3.12) && "$$found" -m venv $(@D)
	$(@D)/bin/python -m pip install torch==2.13.0 pyro-ppl==1.9.2 numpyro==0.22.0 jax==0.10.2 scipy==1.17.1
	@touch $@

# Of these the native engine is built, which installing does.
native := mxfusion_mvn/compiler/native
engine := setup.py mxfusion_mvn/compiler/operators.py $(native)/digest.py \
          $(filter-out %/formulas.h, $(wildcard $(native)/src/*))

# Editable, so that what is tested is what is in this folder.
$(VENV)/installed-%: pyproject.toml $(engine) $(VENV)/made
	$(python) -m pip install --editable '.[$*]'
	@touch $@

# pip before 21.3, which the first releases of Python 3.8 and 3.9 bring, cannot install a folder
# without setup.py as editable; where pip is newer this does nothing.
$(VENV)/made:
	found=$$(scripts/find_python) && "$$found" -m venv "$(VENV)"
	$(python) -m pip install 'pip>=21.3'
	@touch $@

# Not $(VENV): a folder named on the command line is not ours to remove.
clean:
	rm -rf .venv .venv-3.* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f $(native)/_engine.*.so $(native)/src/formulas.h
	find mxfusion_mvn tests examples -name __pycache__ -prune -exec rm -rf {} +
