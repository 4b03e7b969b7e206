# Everything a person does with this tree. `make` alone lists it.

PYTHON ?= python3
# Where torch comes from; empty: PyPI (on Linux x86 that is the CUDA build, several GB).
# Without an NVIDIA GPU: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

# How `make chaos` plays: which seeds, and how many seconds of kills each.
SEEDS ?= 1 2 3
CHAOS_S ?= 150
# How long `make soak` lasts, in seconds.
SOAK_S ?= 600
# How many requests `make fuzz` makes up.
FUZZ ?= 10000

# How many processes share the tests of `make test` and `make check`.
TOGETHER ?= 2

# What `make test-broker4` runs: all that speaks to a broker, and what kills it.
BROKER_TESTS := tests/integration tests/acceptance/test_faults.py \
  tests/acceptance/test_promises.py tests/acceptance/test_chaos.py

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PINS := setup.cfg pyproject.toml constraints.txt
CODE := genie workers cloud_app migrations tests benchmarks scripts

# Each process a test starts would compile every module again without its bytecode.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-upgrade test-broker4 chaos soak fuzz cuda conformance check static lint docs bench bench-peers constraints clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.setup ## Make .venv with everything to run, test and measure

demo: $(VENV)/.runtime ## Start a fleet on this machine and watch it answer
	@$(BIN)/genie demo $(ARGS)

test: $(VENV)/.setup ## Run all tests, on private RabbitMQ and PostgreSQL nodes
	@scripts/install-servers
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TOGETHER) --durations=20 $(ARGS)

test-upgrade: $(VENV)/.setup ## Run this release beside the one before it, in every mix
	@scripts/install-servers
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/upgrade $(ARGS)

test-broker4: $(VENV)/.setup ## Run integration and fault tests on RabbitMQ 4 (needs root)
	@scripts/install-servers
	@root=$$(scripts/broker4) && GENIE_TEST_RABBITMQ_ROOT="$$root" OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest $(BROKER_TESTS) $(ARGS)

chaos: $(VENV)/.setup ## Break a fleet for half an hour: SEEDS="1 2 3" CHAOS_S=150
	@scripts/install-servers
	@GENIE_CHAOS_SEEDS="$(SEEDS)" GENIE_CHAOS_S="$(CHAOS_S)" OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -m chaos -rP $(ARGS)

soak: $(VENV)/.setup ## Count what a busy fleet holds while it lives: SOAK_S=600
	@scripts/install-servers
	@GENIE_SOAK_S="$(SOAK_S)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak -rP $(ARGS)

fuzz: $(VENV)/.setup ## Submit FUZZ=10000 odd requests to an engine, which must live
	@GENIE_FUZZ="$(FUZZ)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rP \
	  tests/integration/test_engine_child.py -k no_submission $(ARGS)

cuda: $(VENV)/.setup ## Run the engine's tests on this machine's NVIDIA GPU
	@GENIE_TEST_DEVICE=cuda OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
	  -m "cuda or not cuda" tests/cuda tests/unit/workers/engine/test_yielding.py \
	  $(addprefix tests/unit/workers/engine/torch/test_, packed.py packed_build.py grammar.py) \
	  $(ARGS)

conformance: $(VENV)/.setup ## Hold a fleet to its own and OpenAI's description, at length
	@scripts/install-servers
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "thorough or not thorough" \
	  tests/conformance $(ARGS)

check: static ## Lint, types, architecture and unit tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TOGETHER) tests/unit

static: $(VENV)/.setup ## Lint, types and architecture: what needs no test run
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

lint: $(VENV)/.setup ## Mend what can be mended, then show what remains
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: $(VENV)/.setup ## Write the reference pages that come from the code
	@$(BIN)/python scripts/reference.py

bench: $(VENV)/.setup bench-peers ## Run the benchmarks and write docs/performance.md
	@scripts/install-servers
	@OMP_NUM_THREADS=1 $(BIN)/python scripts/bench.py $(ARGS)

bench-peers: $(addprefix $(VENV)/peers/,celery litellm uvicorn) ## Install what benchmarks compare with

$(VENV)/peers/%: benchmarks/peers/%.txt | $(BIN)/python
	@echo "installing $* for benchmarks …"
	@$(PYTHON) -m venv $@
	@$@/bin/python -m pip --disable-pip-version-check --quiet install -r $<
	@touch $@

constraints: $(VENV)/.setup ## Write down the versions installed now
	@{ echo "# Every version this release was tested with; made by \`make constraints\`."; \
	  $(PIP) freeze --exclude genie-fleet | grep -v '^-e' \
	  | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## Remove .venv and everything that was built (models stay)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache .coverage .coverage.* htmlcov

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt | $(BIN)/python
	@echo "installing torch (the largest download, once) …"
	@$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	@touch $@

$(VENV)/.runtime: $(PINS) $(VENV)/.torch
	@echo "installing Genie Fleet …"
	@$(PIP) install -c constraints.txt -e '.[worker,cloud]'
	@touch $@

$(VENV)/.setup: $(PINS) $(VENV)/.runtime
	@echo "installing what tests and benchmarks need …"
	@$(PIP) install -c constraints.txt -e '.[worker,cloud,dev]'
	@touch $@
