# `make demo` trains an example and draws its figures; `make test` runs every check. Both set up an
# environment in .venv and need only Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test test-oldest test-newest setup lint docs figures notebooks bench mutants clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# What the page of the demo shows: all measures every epoch would take as long as the training. A
# network this small is not faster with more threads, and several times slower on busy cores.
MEASURES := --set 'measures.names=["fan_in", "fan_out", "power_law", "normalized_spectral_gap", \
	"giant_share", "turnover"]' --set measures.every=2 --set threads=1

# Two commands at a time. What the second of each two says is shown when both have ended.
LATER = > $@.log 2>&1 || { cat $@.log; rm $@.log; exit 1; }

demo: setup
	rm -rf $(DEMO) $(DEMO)-static
	@mkdir -p $(dir $(DEMO))
	@$(MAKE) --no-print-directory --jobs 2 $(DEMO) $(DEMO)-static
	@cat $(DEMO)-static.log
	@$(MAKE) --no-print-directory --jobs 2 $(DEMO)/report.html $(DEMO)/figures
	@cat $(DEMO)/figures.log
	@rm $(DEMO)-static.log $(DEMO)/figures.log
	@echo "Open $(DEMO)/report.html in a browser; figures are in $(DEMO)/figures"

$(DEMO):
	$(BIN)/topokit train set_mlp_digits --out $@ $(MEASURES)

$(DEMO)-static:
	$(BIN)/topokit train static_mlp_digits --out $@ $(MEASURES) $(LATER)

$(DEMO)/report.html:
	$(BIN)/topokit report $(DEMO) $(DEMO)-static --out $@

$(DEMO)/figures:
	$(BIN)/topokit plot $(DEMO) --only summary,growth_flow,network $(LATER)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation, in docs/_build/html; nothing is downloaded. A warning is an error.
docs: setup
	rm -rf docs/_build
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

test: lint docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	TOPOKIT_QUICK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --nbmake notebooks/*.ipynb

# The fast tests with the oldest and the newest versions that pyproject.toml allows, each in an
# environment of its own; PYTHON_OLDEST and PYTHON_NEWEST choose other interpreters.
PYTHON_OLDEST ?= $(PYTHON)
PYTHON_NEWEST ?= $(PYTHON)
test-oldest: setup
	$(BIN)/python tests/versions.py oldest --python $(PYTHON_OLDEST)

test-newest: setup
	$(BIN)/python tests/versions.py newest --python $(PYTHON_NEWEST)

# Executes the notebooks in full and stores their outputs; about ten minutes.
notebooks: setup
	cd notebooks && for book in *.py; do ../$(BIN)/jupytext --quiet --to ipynb $$book; done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbmake --nbmake-timeout=1500 --overwrite notebooks/*.ipynb

# All figures of figures/ but those of the studies; those of MNIST need TOPOKIT_DATA or DATA_DIR.
# Figures in the notebooks are drawn by `make notebooks`.
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

# All benchmarks, with the libraries compared installed in a separate environment; results are printed
# and written to runs/bench.txt. About half an hour on an idle machine.
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

# Plants small faults in a copy of the package and runs the tests that concern each: tests/MUTANTS.md.
mutants: setup
	$(BIN)/python tests/mutants/run.py --seed 0 --count 160 --jobs 2 --stages near --table tests/MUTANTS.md

clean:
	rm -rf docs/_build docs/_cache docs/api docs/documents docs/gallery docs/notebooks docs/recipes docs/topologies
	rm -rf $(VENV) $(VENV)-* runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
