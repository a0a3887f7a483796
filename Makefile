# Two commands: `make demo` shows what topokit does, `make test` runs every check.
# Both set up their own environment in .venv and need only Python 3.11 (or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test setup lint figures bench clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: setup
	rm -rf $(DEMO) runs/demo-static
	$(BIN)/topokit train set_mlp_digits --out $(DEMO)
	$(BIN)/topokit train static_mlp_digits --out runs/demo-static
	$(BIN)/topokit plot $(DEMO)
	$(BIN)/topokit report $(DEMO) runs/demo-static --out $(DEMO)/report.html
	@echo "Pictures are in $(DEMO)/figures, the report is $(DEMO)/report.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

# Every figure of the README; the MNIST ones need TOPOKIT_DATA or DATA_DIR.
DATA_DIR ?= $(TOPOKIT_DATA)
figures: setup
	rm -rf runs/figures
	$(BIN)/topokit train set_mlp_digits --out runs/figures/set_mlp_digits
	$(BIN)/topokit plot runs/figures/set_mlp_digits --out figures/set_mlp_digits
	$(BIN)/topokit train static_mlp_digits --out runs/figures/static_mlp_digits
	$(BIN)/topokit plot runs/figures/static_mlp_digits --out figures/static_mlp_digits
	$(BIN)/topokit train set_mlp_mnist --out runs/figures/set_mlp_mnist --data-dir "$(DATA_DIR)"
	$(BIN)/topokit plot runs/figures/set_mlp_mnist --out figures/set_mlp_mnist

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
