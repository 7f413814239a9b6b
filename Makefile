# Everything a fresh machine needs: `make serve` and `make test`. See docs/OPERATIONS.md for the rest.
#
#   make serve ARGS='--workers 4 --listen 0.0.0.0:9000'     PYTHON=python3.12 chooses the interpreter of the environment

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Two stamps: serving needs the runtime packages alone, not the hundred of the tests.
RUN := $(VENV)/.installed-run
TEST := $(VENV)/.installed-test
# The packages once more, with the hot path compiled; `make serve COMPILE=no` serves from the sources.
COMPILE ?= yes
COMPILED := $(VENV)/compiled
# Without the safe path the folder that a process stands in comes before all others: the sources, where that is here.
AS_COMPILED := PYTHONSAFEPATH=1 PYTHONPATH='$(CURDIR)/$(COMPILED):$(CURDIR)'
PACKAGES := gateway s3api tiering
COMPILED_TESTS := tests/wire tests/conformance tests/s3 tests/unit/test_crc64.py tests/unit/test_flash.py tests/unit/test_md5.py tests/unit/test_signing_key.py
SOURCES := $(PACKAGES) clients tests bench
# Files of tests are dealt to two processes: most of them wait for a device or a gateway. JOBS=0 is one, for a debugger.
JOBS ?= 2
PYTEST := $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help serve compile test test-compiled test-rgw crash linear model power soak hostile fuzz audit lint bench bench-smoke docs clean

help:
	@echo 'make serve        install what is needed and run the gateway (ARGS: options of recall serve)'
	@echo 'make compile      compile the hot path, or say why it cannot be; make serve tries it by itself'
	@echo 'make test         run the tests (ARGS: options of pytest; JOBS=0: in one process)'
	@echo 'make test-compiled  those that talk to a gateway or its engine against the compiled one'
	@echo 'make test-rgw     run the tier tests against a Ceph RGW at RECALL_TEST_S3_ENDPOINT'
	@echo 'make crash        kill -9 under load, again and again (ARGS: --minutes N --rounds N --seed S)'
	@echo 'make linear       several workers held to one order of what their clients saw (ARGS: --minutes N --kill --seed S)'
	@echo 'make model        the tiers against their model, long histories (ARGS: --minutes N --operations N --jobs N --seed S)'
	@echo 'make power        cut the power at any point of a recorded load, again and again (ARGS: --minutes N --seed S)'
	@echo 'make soak         everything at once for a long time (ARGS: --minutes N --seed S)'
	@echo 'make hostile      attack a gateway while others use it (ARGS: --seconds N --count N --only ATTACK)'
	@echo 'make fuzz         fuzz every parser of outside bytes for a minute each (ARGS: --minutes N, --target NAME, --seed N)'
	@echo 'make lint         ruff and mypy'
	@echo 'make audit        look the packages we run on up among known vulnerabilities (needs the network)'
	@echo 'make bench        the whole comparison, with the hot path compiled (ARGS: options of bench.compare)'
	@echo 'make bench-smoke  a short run of the benchmarks, to see that they work'
	@echo 'make docs         write the generated tables of docs/ again'
	@echo 'make clean        remove the environment and caches; data stays'

ifeq ($(COMPILE),yes)
serve: $(RUN) $(COMPILED)/.tried
	exec env $(AS_COMPILED) $(BIN)/recall serve $(ARGS)
else
serve: $(RUN)
	exec $(BIN)/recall serve $(ARGS)
endif

compile: $(RUN)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[compile]'
	rm -rf $(COMPILED)
	RECALL_COMPILE=yes $(BIN)/python setup.py --quiet build --parallel 2 --build-lib $(COMPILED)
	@mkdir -p $(COMPILED) && touch $(COMPILED)/.tried

# What cannot be compiled here (no compiler, no headers of the interpreter) is served as it is.
$(COMPILED)/.tried: setup.py $(shell find $(PACKAGES) -name '*.py') | $(RUN)
	@echo 'compiling the hot path, which takes a minute, once (COMPILE=no leaves it)'
	@$(MAKE) --no-print-directory compile >$(VENV)/compile.log 2>&1 || { rm -rf $(COMPILED); mkdir -p $(COMPILED); touch $@; echo 'not compiled, serving from the sources: see $(VENV)/compile.log'; }

test: $(TEST)
	$(PYTEST) -m 'not rgw' $(ARGS)

test-compiled: $(TEST) compile
	$(AS_COMPILED) $(PYTEST) -m 'not rgw and not interpreted' --import-mode=append $(COMPILED_TESTS) $(ARGS)

test-rgw: $(TEST)
	@test -n "$$RECALL_TEST_S3_ENDPOINT" || { echo 'set RECALL_TEST_S3_ENDPOINT, RECALL_TEST_S3_ACCESS_KEY and RECALL_TEST_S3_SECRET_KEY to those of a Ceph RGW' >&2; exit 2; }
	$(BIN)/pytest -m rgw $(ARGS)

crash: $(TEST)
	$(BIN)/python -m tests.long.crash $(ARGS)

linear: $(TEST)
	$(BIN)/python -m tests.long.linear $(ARGS)

model: $(TEST)
	$(BIN)/python -m tests.long.model $(ARGS)

power: $(TEST)
	$(BIN)/python -m tests.power $(ARGS)

soak: $(TEST)
	$(BIN)/python -m tests.long.soak $(ARGS)

hostile: $(TEST)
	PYTHONPATH=clients $(BIN)/python -m tests.long.hostile $(ARGS)

# Led by coverage where atheris has a wheel for this interpreter and machine, else blind.
fuzz: $(TEST)
	$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary atheris -e '.[fuzz]' || true
	$(BIN)/python -m tests.fuzz $(ARGS)

lint: $(TEST)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

audit: $(RUN)
	.ci/audit $(BIN)/python

bench: $(TEST) compile
	$(AS_COMPILED) $(BIN)/python -m bench.compare $(ARGS)

bench-smoke: $(TEST)
	$(BIN)/python -m bench.compare --smoke $(ARGS)

docs: $(RUN)
	$(BIN)/python -m gateway.manual docs/ARCHITECTURE.md docs/OPERATIONS.md docs/S3.md

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Recall needs Python 3.11 or later: make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)

$(RUN): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(TEST): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $(RUN) $@
