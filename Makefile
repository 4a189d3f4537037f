# The menu of this repository: `make` lists it. Every target does its own set-up and can be repeated.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

UV := .tools/bin/uv
DEEP := $(if $(wildcard .venv/.deep),--group deep)
# Python may not write its bytecode here, so nobody else would: every start would compile all that it imports.
BYTECODE := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
BIN := .venv/bin
# Python built with profile-guided optimization takes .7 of the time for our code (docs/adr/0054): the first such on PATH.
# A distribution's own is, without saying so.
OPTIMIZED := import ensurepip, sys, sysconfig; \
  said = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""); \
  sys.exit(sys.version_info < (3, 11) or not (said or sys.prefix == "/usr"))
PYTHON ?= $(shell for each in $$(type -ap python3.11 python3); do \
  if "$$each" -c '$(OPTIMIZED)' 2>/dev/null; then echo "$$each"; exit; fi; done; \
  command -v python3.11 || command -v python3)
PACKAGES := definitions stores bundle servicekit collector features archiver gateway simulator pipelines local_stack loadtest millrace_cli
MANIFESTS := $(wildcard pyproject.toml */pyproject.toml */*/pyproject.toml)
export PATH := $(CURDIR)/.tools/bin:$(CURDIR)/$(BIN):$(PATH)

##@ Everyday
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z][a-z0-9-]*:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup system ## The whole loop on real data; PROFILE=embedded|real, KEEP=1 leaves the stack running
	@$(BIN)/millrace demo --json $(if $(PROFILE),--profile $(PROFILE)) $(if $(KEEP),--keep)

up: setup system ## Start the native stack; PROFILE=embedded|real
	@$(BIN)/millrace up $(if $(PROFILE),--profile $(PROFILE))

down: setup ## Stop it; its state stays
	@$(BIN)/millrace down

status: setup ## Each process of it, and whether it works
	@$(BIN)/millrace status

doctor: setup ## What this machine has and lacks
	@$(BIN)/millrace doctor

##@ Checks
check: lint types imports unit ## Before every commit

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## Let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## mypy, strict
	$(BIN)/mypy $(PACKAGES:%=-p %) -p millrace

imports: setup ## Who may import whom
	$(BIN)/lint-imports

drift: protos reference ## Generated code and pages are what protos and use cases say
	@changed="$$(git status --porcelain protos/gen docs/features)"; \
	if [ -n "$$changed" ]; then echo "not what protos and use cases say: commit what make protos reference wrote"; \
	  echo "$$changed"; exit 1; fi

unit: setup ## Fast tests; s=gateway for one member
	$(BIN)/pytest -q $(if $(s),$(wildcard services/$(s) libs/$(s) $(s)))

property: setup ## Stream equals backfill, bytes depend on the log alone: Hypothesis, some minutes
	$(BIN)/pytest -q -m property libs/definitions services/features
.PHONY: property

sim: setup ## Simulated worlds with known truth: estimates cover it, corrections near it; a minute
	$(BIN)/pytest -q -m sim services/simulator pipelines
.PHONY: sim

contract: setup system dist ## One suite an interface, on embedded and real implementations
	$(BIN)/pytest -q tests/contract -m "real or not real"

e2e: setup system dist ## The whole stack: Kafka, Cassandra, Valkey, Triton and our services
	$(BIN)/pytest -q tests/e2e -m "real or not real"

test: lint types imports drift unit contract e2e ## Everything the README promises, real stores included

chaos: setup system dist ## Kills under load; at most 20 min
	$(BIN)/pytest -q tests/chaos -m chaos

chaos-features: setup system dist ## Features and archiver: 72 kills, 10 zombies, real Kafka; SEED=n; 15 min
	@PYTHONPATH=tests $(BIN)/python -m chaos.exactly_once $(if $(SEED),--seed $(SEED))

hostile: setup ## Bad tokens, certificates and bytes, abuse beside good traffic, against a secured stack; SEED=n; 6 min
	@PYTHONPATH=tests $(BIN)/python -m hostile $(if $(SEED),--seed $(SEED))

ladder-nightly: setup system dist ## Every fault of the ladder, 10,000 orphans, rolling restarts and kills of two gateways; 15 min
	@$(BIN)/millrace bench ladder --json
	@$(BIN)/millrace bench orphans --json
	@$(BIN)/millrace bench restarts --json
	@$(BIN)/millrace bench restarts --kill --json
.PHONY: ladder-nightly

gate-proof: setup ## Eight bad models, a better one and noise before the promotion gate; 3 min
	@$(BIN)/python -m pipelines.gate.proof

leak-proof: setup ## Future planted into training rows is found and named; 1 min
	@$(BIN)/python -m pipelines.gate.leak_proof

manifests: setup ## Kubernetes, rendered and checked against its schemas, offline
	$(UV) run --frozen --all-packages --group manifests pytest -q tests/policy -m "real or not real"

ray: $(UV) ## Backfill, deep training and search on a local Ray, in an environment that has it
	@# Ray would start each worker by this same `uv run`, and give up while the environment is made.
	RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
	$(UV) run --isolated --frozen --package millrace-pipelines --no-dev --group ray --group deep --group test \
	  pytest -q pipelines/tests/test_on_ray.py pipelines/tests/deep/test_deep_on_ray.py -m "real or deep" -W ignore \
	  -p no:unraisableexception

deep-test: deep ## Deep models: networks, export, two processes against one, SIGKILL and resume
	$(BIN)/pytest -q -m deep pipelines

isolated: $(UV) ## Each member alone, in an environment of what it declares
	@for folder in $(patsubst %/pyproject.toml,%,$(wildcard */pyproject.toml */*/pyproject.toml)); do \
	  [ -n "$$(ls $$folder/tests/test_*.py 2>/dev/null)" ] || continue; \
	  name="$$(sed -n 's/^name = "\(.*\)"/\1/p' $$folder/pyproject.toml | head -1)"; echo "$$name"; \
	  $(UV) run --isolated --frozen --package "$$name" --no-dev --group test pytest -q "$$folder"; \
	done

ci: test property sim isolated ray deep-test manifests gate-proof leak-proof chaos ## What CI runs

##@ Set-up
setup: .venv/.compiled ## uv, the Python environment, compiled kernels (every target does this)

deep: setup ## PyTorch for the deep models into .venv (4.8 GB); later set-ups keep it
	@[ -e .venv/.deep ] || { echo "installing PyTorch"; $(UV) sync --quiet --frozen --all-packages --group deep $(BYTECODE); touch .venv/.deep; }

gpu: $(UV) ## .venv-gpu: the same environment with onnxruntime-gpu and PyTorch, for a machine with a GPU
	UV_PROJECT_ENVIRONMENT=.venv-gpu $(UV) sync --quiet --frozen --all-packages --group deep --no-install-package onnxruntime
	@version="$$(sed -n '/^name = "onnxruntime"$$/{n;s/version = "\(.*\)"/\1/p}' uv.lock)"; \
	  $(UV) pip install --quiet --python .venv-gpu/bin/python "onnxruntime-gpu[cuda,cudnn]==$$version"
	@echo "measure it: .venv-gpu/bin/millrace bench gpu --json"
.PHONY: gpu

protos: setup ## Generate protos/gen
	$(BIN)/python protos/generate.py

reference: setup ## Generate docs/features from the use cases
	$(BIN)/python -m definitions.reference usecases docs/features
.PHONY: reference

dist: setup ## Fetch jars and Triton's environment into .millrace/dist, where this machine can run them
	@$(BIN)/python -m local_stack

hooks: setup ## Run the checks before each commit (pre-commit)
	$(UV) tool run pre-commit install

clean: ## Remove caches
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*/*' -not -path './.tools/*' -prune -exec rm -rf {} +

distclean: clean ## Remove environments, downloads and all local state; stops the stack first
	[ ! -x $(BIN)/millrace ] || $(BIN)/millrace down
	rm -rf .venv .venv-feast .venv-gpu .tools .millrace

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11 or newer is needed: install it, or give its path as PYTHON=..."; exit 3; }
	@echo "installing uv into .tools"
	@$(PYTHON) -m venv .tools \
	  || { echo "$(PYTHON) cannot make environments: install its venv module (Debian: apt install python3-venv)"; exit 3; }
	@.tools/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9'

.venv/.synced: $(UV) uv.lock $(MANIFESTS)
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --python $(PYTHON) .venv
	@echo "installing the Python environment from uv.lock"
	@if [ -t 2 ]; then $(UV) sync --frozen --all-packages $(DEEP) $(BYTECODE); \
	  else $(UV) sync --quiet --frozen --all-packages $(DEEP) $(BYTECODE); fi
	@touch $@

# The machine code of the stream's kernels, so that no process start compiles: half a minute when it is new.
.venv/.compiled: .venv/.synced $(wildcard libs/definitions/definitions/*.py libs/servicekit/servicekit/kafka/*.py)
	@$(BIN)/python -m definitions.compile
	@$(BIN)/python -m servicekit.kafka.compile
	@touch $@

# What only the system can give. Debian starts a server that it installs, at the port that ours needs: a policy says no.
system:
	@command -v valkey-server >/dev/null || command -v redis-server >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing redis-server by apt"; \
	    policy=/usr/sbin/policy-rc.d; \
	    [ -e $$policy ] || { trap 'rm -f /usr/sbin/policy-rc.d' EXIT; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; }; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get install -y -qq redis-server || { apt-get update -qq && apt-get install -y -qq redis-server; }; } \
	      >.redis-install.log 2>&1 \
	      || { tail -5 .redis-install.log; echo "redis-server could not be installed: rows will be in LMDB"; }; \
	    rm -f .redis-install.log; \
	  else \
	    echo "redis-server is not installed: rows will be in LMDB (as root: apt install redis-server)"; \
	  fi; }

.PHONY: help demo up down status doctor check lint format types imports drift unit contract e2e test chaos \
  chaos-features hostile manifests gate-proof leak-proof isolated ray deep deep-test ci setup protos dist hooks clean distclean system
