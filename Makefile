# make run   installs zpipeline into .venv and runs the whole pipeline on its defaults
# make test  installs what the tests need and runs them all
# make faults TIMES=20 runs the fault tests that often (JOBS=2: two runs at a time), with a log each in fault-runs;
#            called again, it goes on
# make bench measures how fast it is, in some five minutes, and writes the tables of docs/performance.rst
# make beside COMMIT=... measures this tree and a commit in turns, and says where this one is slower
# Set-up is done once, and again when setup.py or pyproject.toml change.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
TIMES = 1
JOBS = 1

# The modules without I/O, whose branches the tests cover without a gap.
PURE := zpipeline/protocol/*,zpipeline/window.py,zpipeline/entry.py,zpipeline/dispatch.py,zpipeline/suspects.py
PURE := $(PURE),zpipeline/histogram.py,zpipeline/stats.py,zpipeline/pipeline/roster.py
PURE := $(PURE),zpipeline/retries.py,zpipeline/admission.py,zpipeline/pipeline/sending.py
PURE_TESTS = $(foreach module,protocol dispatch suspects retries admission window sending histogram stats roster,$(wildcard tests/test_$(module)*.py))

# A virtual environment whose making failed is made again.
.DELETE_ON_ERROR:

.PHONY: run test faults bench beside coverage lint types docs clean

run: $(VENV)/installed
	$(BIN)/twistd -n zpipe

# Two at a time: the tests wait more than they compute.
test: $(VENV)/installed-test
	$(BIN)/trial --jobs=2 tests

faults: $(VENV)/installed-test
	$(BIN)/python -m tests.faults.again --times $(TIMES) --jobs $(JOBS)

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks

beside: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.beside $(COMMIT)

coverage: $(VENV)/installed-test
	$(BIN)/coverage run -m twisted.trial --temp-directory=_trial_temp_coverage $(PURE_TESTS)
	$(BIN)/coverage report
	$(BIN)/coverage report --include='$(PURE)' --fail-under=100

lint: $(VENV)/installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/installed-lint
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build _trial_temp* .coverage .hypothesis .mypy_cache .ruff_cache fault-runs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-%: setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
