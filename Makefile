# `make demo` and `make test` are all a newcomer needs; each installs into .venv first when that is due.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test lint bench clean

install: $(INSTALLED)

$(INSTALLED): setup.cfg requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Found $$($(PYTHON) --version), need Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch by itself first: a package that asks for it could bring another build
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --quiet -r requirements.txt -e '.[test]'
	@touch $@

demo: install
	HF_HUB_OFFLINE=1 $(BIN)/python -m viscpm_hf.tiny.demo

test: install
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

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
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info
