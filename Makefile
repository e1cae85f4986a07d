# Everything runs in a virtual environment that the first target makes; PYTHON picks another base.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check chaos lint bench-quality-quick clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

demo: $(VENV)/.installed  ## the digits study from nothing to a verified pruned model
	mkdir -p demo
	cd demo && ../$(BIN)/automl-prune search digits
	cd demo && ../$(BIN)/automl-prune pareto digits --html front.html
	cd demo && rm -rf picked && ../$(BIN)/automl-prune pick digits --max-drop 3 --out picked
	cd demo && ../$(BIN)/automl-prune verify picked
	@echo "The front as a page: demo/front.html    The picked model: demo/picked"

test: $(VENV)/.installed  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

chaos: $(VENV)/.installed  ## workers killed and frozen, PostgreSQL restarted: nothing may be lost
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## what a change must pass

bench-quality-quick: $(VENV)/.installed  ## the digits quality benchmark, one seed, 16 trials
	$(BIN)/python benchmarks/quality.py --study digits --seeds 101 --trials 16 --json runs/bench/quality_digits.json

clean:
	rm -rf $(VENV) demo
