# The tasks of this project. Every target does its own set-up when it is missing; `make` lists them.

PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): requirements.lock requirements-dev.lock requirements-cuda.lock pyproject.toml infra/setup.sh infra/install.sh
	@PYTHON=$(PYTHON) infra/setup.sh
	@touch $@

.PHONY: setup
setup: $(READY) ## Make .venv from the lock
	@echo "ready: make run, or $(BIN)/fusion --help"

.PHONY: run
run: $(READY) ## Run the whole pipeline on this machine (ARGS="--profile atlas --data DIR" and more)
	@$(BIN)/fusion run $(ARGS)

.PHONY: test
test: $(READY) ## Run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

.PHONY: integration
integration: $(READY) ## Run the long tests, those against real servers, and those of the image (.ci/servers.sh, .ci/engine.sh)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m integration $(ARGS)

.PHONY: image
image: $(READY) ## Build the container image and list what is in it (ARGS="--target gpu" and more)
	@infra/image.sh $(ARGS)

.PHONY: lint
lint: $(READY) ## Check style and likely mistakes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/hadolint infra/Dockerfile infra/compose/Dockerfile

.PHONY: format
format: $(READY) ## Put the code into its format
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

.PHONY: types
types: $(READY) ## Check the types
	@$(BIN)/mypy

.PHONY: compile
compile: $(READY) ## Compile the pipelines for Kubeflow
	@$(BIN)/fusion compile

.PHONY: validate-infra
validate-infra: $(READY) ## Build the cluster's manifests and check them (.ci/tools.sh installs kubectl and promtool)
	@$(BIN)/python infra/kubernetes/validate.py

.PHONY: audit
audit: $(READY) ## Look the locked packages up among the known vulnerabilities
	@$(BIN)/python infra/audit.py

.PHONY: ui
ui: $(READY) ## Open the MLflow page on the local store
	@$(BIN)/fusion ui $(ARGS)

.PHONY: lock
lock: ## Lock what pyproject.toml changed, keeping every other pin
	@PYTHON=$(PYTHON) infra/lock.sh

.PHONY: clean
clean: ## Remove .venv and caches; runs/ with its models only with RUNS=1
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ "$(RUNS)" = 1 ]; then rm -rf runs; elif [ -d runs ]; then echo "kept runs/ (make clean RUNS=1 removes it)"; fi
