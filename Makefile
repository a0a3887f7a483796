# Two commands: `make demo` shows what topokit does, `make test` runs every check.
# Both set up their own environment in .venv and need only Python 3.11 (or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test setup lint figures notebooks bench clean

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
	TOPOKIT_QUICK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --nbmake notebooks/*.ipynb

# Executes the notebooks in full and keeps their outputs; some ten minutes.
notebooks: setup
	cd notebooks && for book in *.py; do ../$(BIN)/jupytext --quiet --to ipynb $$book; done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbmake --nbmake-timeout=1500 --overwrite notebooks/*.ipynb

# Every figure of the README; the MNIST ones need TOPOKIT_DATA or DATA_DIR. The notebooks' figures
# are made by `make notebooks`, where they are shown.
DATA_DIR ?= $(TOPOKIT_DATA)
figures: setup
	rm -rf runs/figures
	$(BIN)/topokit train set_mlp_digits --out runs/figures/set_mlp_digits
	$(BIN)/topokit plot runs/figures/set_mlp_digits --out figures/set_mlp_digits --formats png,gif
	$(BIN)/topokit train static_mlp_digits --out runs/figures/static_mlp_digits
	$(BIN)/topokit plot runs/figures/static_mlp_digits --out figures/static_mlp_digits
	$(BIN)/topokit train set_mlp_mnist --out runs/figures/set_mlp_mnist --data-dir "$(DATA_DIR)"
	$(BIN)/topokit plot runs/figures/set_mlp_mnist --out figures/set_mlp_mnist
	$(BIN)/python figures/make_topologies.py --seed 0

# Every benchmark, with the rivals in an environment of their own; results to the terminal and to
# runs/bench.txt. On an idle machine: about half an hour.
BENCHMARKS := training_step rewiring measures powerlaw generators sweep scaling

$(VENV)-bench/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --constraint constraints.txt --editable . \
		igraph powerlaw sparselab==0.2.2
	@touch $@

bench: $(VENV)-bench/.installed
	@mkdir -p runs
	@for name in $(BENCHMARKS); do \
		echo "## benchmarks/$$name.py"; \
		$(VENV)-bench/bin/python -W ignore benchmarks/$$name.py || exit 1; \
	done | tee runs/bench.txt
	@echo "## benchmarks/scaling.py --million" | tee -a runs/bench.txt
	@$(VENV)-bench/bin/python -W ignore benchmarks/scaling.py --million | tee -a runs/bench.txt

clean:
	rm -rf $(VENV) $(VENV)-bench runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
