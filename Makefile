# make run    a fresh clone becomes a report: environment in .venv, then the built-in suite
# make test   the tests that need no network, no GPU and no download
# make bench  time and memory beside PEFT and the public packages on one CPU core, minutes; bench-gpu the same on a GPU
# make battery  every method through every check; writes the registry of proven methods and docs/methods
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
# Test processes; each computes on one thread.
WORKERS ?= auto
SLOW_WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.moelora-installed

.PHONY: run test test-slow test-malformed battery bench bench-gpu docs lint audit format environment clean

run: environment
	$(BIN)/snakemake --cores $(CORES)
	@echo "The report: $(CURDIR)/reports/tiny/index.html"

environment: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else "moelora needs Python 3.11 or 3.12, found %d.%d; say make PYTHON=python3.11" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

test: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(SLOW_WORKERS) -m slow

# Thousands more of spoilt files than `make test` tries, drawn anew each time.
test-malformed: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --hypothesis-profile=campaign tests/malformed

# Every check of the battery on every method; what it showed becomes the registry, the matrix and the methods' pages.
battery: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup tests/battery --battery-matrix
	$(BIN)/moelora docs

# One thread and CPU time: what other processes do then matters least. ROUNDS=5 is quicker, ROUNDS=21 steadier.
ROUNDS ?= 7
bench: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m bench run --rounds $(ROUNDS) --name bench
	$(BIN)/python -m bench guard results/bench/bench.json

bench-gpu: environment
	$(BIN)/python -m bench run --preset gpu --rounds $(ROUNDS) --name bench-gpu

docs: environment
	$(BIN)/moelora docs

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --quiet tests/workflow/test_style.py

# Licences and known advisories of the locked packages, for information: it never fails, and says what it cannot check.
audit: environment
	$(BIN)/python .ci/audit.py

format: environment
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/snakefmt Snakefile workflow

clean:
	rm -rf results/tiny reports/tiny
