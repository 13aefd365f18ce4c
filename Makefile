# make run    a fresh clone becomes a report: environment in .venv, then the built-in suite
# make test   the tests that need no network, no GPU and no download
# make bench  time and memory beside PEFT and the public packages on one CPU core, minutes; bench-gpu the same on a GPU
# make slurm-faults  jobs that fail, are killed, requeued and out of time, on a SLURM started here; slurm-tiny the built-in suite
# make parallel  two processes beside one, and sharded models beside whole ones, as a table of differences
# make kills  kill the built-in suite again and again, and compare what it ends with; KILLS=100
# make battery  every method through every check; writes the registry of proven methods and docs/methods
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
# Test processes; each computes on one thread.
WORKERS ?= auto
SLOW_WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.moelora-installed

.PHONY: run test test-slow kills test-malformed battery bench bench-gpu parallel slurm-faults slurm-tiny docs lint audit format environment clean

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

# Kills of the pipeline at random moments, each followed by the same command; then all records and adapters are compared
# with those of an undisturbed run. docs/faults.md says what is killed. About half an hour on two idle cores.
KILLS ?= 100
MINUTES ?= 120
kills: environment
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/campaign.py --kills $(KILLS) --minutes $(MINUTES) --log results/kills.jsonl

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

# A SLURM of one node, started for the tests: everything that can happen to jobs, and the built-in suite as jobs. Needs
# root and Debian's slurm-wlm and munge. What squeue showed is left in LOGS.
LOGS ?= results/cluster
slurm-faults: environment
	MOELORA_CLUSTER_LOGS=$(abspath $(LOGS)) $(BIN)/python -m pytest -m slow tests/cluster/test_slurm.py -k everything

slurm-tiny: environment
	MOELORA_CLUSTER_LOGS=$(abspath $(LOGS)) MOELORA_SLURM_TINY=1 $(BIN)/python -m pytest -m slow tests/cluster/test_slurm.py -k whole

parallel: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.parallel --out results/bench/parallel.json

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
