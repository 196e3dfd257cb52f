# `make demo` and `make test` set up everything they need first; see setup.sh.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint docs notebooks rebuild-check reference lock

VENV ?= .venv
CORES ?= all
export VENV PYTHON
BIN := $(VENV)/bin
# Every stage is one process on one core.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

help:
	@echo "make demo       set up, make 18 scans with known truth, register them, train and fit a small model"
	@echo "make test       set up, run the tests"
	@echo "make test-slow  set up, run the tests that take minutes"
	@echo "make lint       set up, run the linters, the type checker and the import contracts"
	@echo "make docs       set up, build the documents into .cache/site; open its index.html"
	@echo "make notebooks  set up, execute the notebooks of docs/tutorials anew, in place (two minutes)"
	@echo "make rebuild-check  set up, build six scans three times in other orders, compare every byte"
	@echo "make reference  write config.yaml, its schema and its page anew after a change of the settings"
	@echo "make lock       write requirements.lock anew after a change of pyproject.toml (needs the network)"

setup:
	@sh setup.sh

demo: setup
	$(BIN)/python -m pipelines.template --cache .cache
	$(BIN)/python -m pipelines.demo_scans
	$(BIN)/snakemake --cores $(CORES) --configfile workflow/demo.yaml -- all model
	@# Alone now, so on all cores.
	env -u OMP_NUM_THREADS -u OPENBLAS_NUM_THREADS $(BIN)/python -m pipelines.fit demo/scans/s006/neutral.obj \
	    --out results/fits/pretrained
	@sed -n '1,4p' results/models/evaluation.md
	@echo "The result lies in results/: summary.tsv, a folder for each scan in scans/, the gallery report/index.html,"
	@echo "the trained model in models/nphm/head, and its fits to a subject that it has not seen in fits/nphm/s006;"
	@echo "in fits/pretrained what the model that comes along makes of that scan: neutral/fit.png"

test: setup
	$(BIN)/python -m pytest -m "not slow"

# Whole runs on synthetic scans, and on real ones where there are some (NPHM_SHARED).
test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check --compact-diff Snakefile workflow
	$(BIN)/snakemake --lint --config scans=tests/workflow/scans.tsv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: setup
	$(BIN)/python -m docs.run_notebooks

rebuild-check: setup
	$(BIN)/python -m benchmarks.rebuild_check --out .cache/rebuild-check \
	    --template "$$($(BIN)/python -m pipelines.template --cache .cache)"

reference: setup
	$(BIN)/python -m workflow.reference

# Locked for what `demo`, `test` and `lint` need. A build of torch for one device (2.13.0+cpu) is still 2.13.0.
lock:
	rm -rf .cache/lock
	$(or $(PYTHON),python3.11) -m venv .cache/lock
	.cache/lock/bin/python -m pip install --upgrade pip
	.cache/lock/bin/python -m pip install --constraint requirements.lock --editable '.[dev]'
	.cache/lock/bin/python -m pip check
	{ sed '/^[^#]/,$$d' requirements.lock; \
	  .cache/lock/bin/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//'; } > .cache/lock/new
	mv .cache/lock/new requirements.lock
