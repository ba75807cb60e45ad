# `make demo` and `make test` are all a newcomer needs; each installs into .venv first when that is due.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TORCH := $(shell grep '^torch==' requirements.txt)
# Each of two processes begins with half of the tests, in their order, and takes over what the other has not begun: a
# file with long tests keeps nobody waiting at the end. A test that hangs fails, with the stacks of its threads.
PYTEST := -m pytest -q -n 2 --dist worksteal --timeout 600
OFFLINE := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

.PHONY: install demo test test-slow test-newest test-oldest test-peers lint docs bench clean

install: $(INSTALLED)

# torch by itself first: a package that asks for it could bring another build
$(INSTALLED): setup.cfg requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Found $$($(PYTHON) --version), need Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -r requirements.txt -e '.[test]'
	@touch $@

demo: install
	HF_HUB_OFFLINE=1 $(BIN)/python -m viscpm_hf.tiny.demo

test: install
	$(OFFLINE) $(BIN)/python $(PYTEST) -m "not slow"

# What takes longest: processes killed at random, trainings in several of them, benchmarks, Spaces.
test-slow: install
	$(OFFLINE) $(BIN)/python $(PYTEST) -m slow

# The whole suite with what pip finds today, torch apart; a repository converted by the tested set is one of its tests.
test-newest: install
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade pip
	.venv-newest/bin/python -m pip install --quiet $(TORCH)
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager $(TORCH) -e '.[test]'
	.venv-newest/bin/python -m pip list
	$(OFFLINE) CONVERTER=$(BIN)/python .venv-newest/bin/python $(PYTEST)

# The whole suite with the lowest versions that setup.cfg allows.
test-oldest: install
	$(PYTHON) -m venv .venv-oldest
	sed -nE 's/^ +([A-Za-z0-9_-]+)>=([0-9.]+)$$/\1==\2/p' setup.cfg > .venv-oldest/oldest.txt
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	.venv-oldest/bin/python -m pip install --quiet "$$(grep '^torch==' .venv-oldest/oldest.txt)"
	.venv-oldest/bin/python -m pip install --quiet --constraint .venv-oldest/oldest.txt -e '.[test]'
	.venv-oldest/bin/python -m pip list
	$(OFFLINE) CONVERTER=$(BIN)/python .venv-oldest/bin/python $(PYTEST)

# Our classes in transformers' own testers. Of a checkout with all of them: make test-peers TRANSFORMERS_TESTS=…/tests
test-peers: install
	$(BIN)/python -m pip install --quiet parameterized
	testers="$${TRANSFORMERS_TESTS:-$$($(BIN)/python tests/peers/fetch.py)}" && \
	  $(OFFLINE) TRANSFORMERS_TESTS="$$testers" $(BIN)/python $(PYTEST) tests/peers

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The API reference, from docstrings.
docs: install
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	rm -rf build/docs
	HF_HUB_OFFLINE=1 $(BIN)/python docs/api.py build/docs

bench: install
	$(BIN)/python benchmarks/tokenizer.py
	$(BIN)/python benchmarks/conversion.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/schedulers.py
	$(BIN)/python benchmarks/what_fits.py
	$(BIN)/python benchmarks/chat_speed.py
	$(BIN)/python benchmarks/paint_speed.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/calibration.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf .venv* build dist src/*.egg-info
