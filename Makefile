.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo serve pictures docs test test-keycloak test-compose realm-check realm-edit sbom compose-profile lint bench bench-record format generate release-protos lock install install-demo clean

help:  ## Lists the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: install-demo  ## Runs the whole system on this machine, and a tour of it
	@$(BIN)/gatehouse demo

serve: install-demo  ## Keeps the same system running, and prints commands to paste
	@$(BIN)/gatehouse demo --keep

pictures: install-demo  ## Makes docs/images/ from a real run
	@mkdir -p docs/images
	@$(BIN)/gatehouse demo --svg docs/images/tour.svg --trace-svg docs/images/trace.svg

test: install  ## Runs the tests on real parts, with coverage
	@$(BIN)/python tools/test.py

test-keycloak: install  ## Holds a real Keycloak to the contract (KEYCLOAK_HOME, JAVA_HOME)
	@$(BIN)/python -m pytest -q tests/issuers --issuer keycloak

realm-check: install  ## Compares the realm file with what Keycloak makes of it (KEYCLOAK_HOME, JAVA_HOME)
	@$(BIN)/python tools/realm.py check

realm-edit: install  ## Changes the realm file in Keycloak's admin console (KEYCLOAK_HOME, JAVA_HOME)
	@$(BIN)/python tools/realm.py edit

test-compose: install  ## Runs docker-compose.yml for real, and tests it from outside (needs Docker)
	@$(BIN)/python -m pytest -q --durations=10 tests/compose

lint: install  ## Style, types, import contracts, generated code, unused code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/generate.py --check
	$(BIN)/python tools/document.py --check
	$(BIN)/vulture

format: install  ## Formats the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## Measures speed side by side (some 4 minutes; best on a quiet machine)
	@$(BIN)/python -m benchmarks

bench-record: install  ## Does the same and writes benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks --record benchmarks/RESULTS.md

generate: install  ## Makes the stubs from protos/
	$(BIN)/python tools/generate.py

docs: install  ## Writes docs/settings.md from the settings in code
	$(BIN)/python tools/document.py

release-protos: install  ## Makes the protos of now the ones that later changes must not break
	$(BIN)/python tools/generate.py --release

lock: install  ## Resolves the dependencies anew, with hashes
	$(BIN)/python tools/lock.py

install: $(VENV)/.dev

install-demo: $(VENV)/.demo

$(VENV)/bin/python:
	@echo "making $(VENV)"
	@$(PYTHON) tools/check_python.py
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python requirements/demo.txt pyproject.toml
	@if [ -e $(VENV)/.dev ] && [ $(VENV)/.dev -nt requirements/dev.txt ]; then :; else \
	  echo "installing the dependencies (once)"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/demo.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; fi
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python requirements/dev.txt pyproject.toml
	@echo "installing the dependencies and tools (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

sbom: $(VENV)/sbom/.done  ## Lists what runs, with hashes, as CycloneDX: dist/gatehouse.cdx.json
	@mkdir -p dist
	@PYTHONWARNINGS=ignore $(VENV)/sbom/bin/cyclonedx-py requirements requirements/runtime.txt --pyproject pyproject.toml \
	  --output-reproducible --output-format JSON --output-file dist/gatehouse.cdx.json
	@echo "dist/gatehouse.cdx.json"

$(VENV)/sbom/.done: $(VENV)/bin/python requirements/sbom.txt
	@$(PYTHON) -m venv $(VENV)/sbom
	@$(VENV)/sbom/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/sbom.txt
	@touch $@

compose-profile:  ## Copies out of the running stack what `gatehouse` and grpcurl need on the host
	@mkdir -p compose/local
	@docker compose cp setup:/run/setup/client/. compose/local/ 2>/dev/null || { \
	  echo "the stack is not there; make it with: docker compose up --wait" >&2; exit 1; }
	@echo "export GATEHOUSE_PROFILE=$(CURDIR)/compose/local/profile.json"
	@echo "next: gatehouse call users ListUsers --as alice"

clean:  ## Removes what was installed and made
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .coverage* dist
