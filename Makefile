.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ACTIONLINT := v1.7.12
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo serve pictures docs docs-settings test test-keycloak test-compose realm-check realm-edit sbom compose-profile lint lint-workflows bench format generate release-protos lock install install-demo clean

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
	$(BIN)/python tools/check_links.py
	$(BIN)/vulture

lint-workflows:  ## Check .github/workflows with actionlint (needs Go)
	@command -v go > /dev/null || { echo "lint-workflows: Go is not installed; install it, or run actionlint $(ACTIONLINT) yourself" >&2; exit 1; }
	@go run github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT)

format: install  ## Formats the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## Measures speed side by side (some 4 minutes; best on a quiet machine)
	@$(BIN)/python -m benchmarks --record benchmarks/RESULTS.md

generate: install  ## Makes the stubs from protos/
	$(BIN)/python tools/generate.py

docs: $(VENV)/docs/.done  ## Build the documentation as a site, in site/
	@$(VENV)/docs/bin/python -m tools.build_docs

docs-settings: install  ## Write docs/settings.md from the settings in code
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

$(VENV)/.demo: $(VENV)/bin/python requirements/testbed.txt pyproject.toml
	@if [ -e $(VENV)/.dev ] && [ $(VENV)/.dev -nt requirements/dev.txt ]; then :; else \
	  echo "installing the dependencies (once)"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/testbed.txt && \
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

# Tools with an environment of their own, so that they do not constrain what runs: .venv/docs, .venv/sbom.
$(VENV)/%/.done: requirements/%.txt $(VENV)/bin/python
	@echo "installing the tools of $(VENV)/$* (once)"
	@$(PYTHON) -m venv $(VENV)/$*
	@$(VENV)/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

compose-profile:  ## Copies out of the running stack what `gatehouse` and grpcurl need on the host
	@mkdir -p compose/local
	@docker compose cp setup:/run/setup/client/. compose/local/ 2>/dev/null || { \
	  echo "the stack is not there; make it with: docker compose up --wait" >&2; exit 1; }
	@echo "export GATEHOUSE_PROFILE=$(CURDIR)/compose/local/profile.json"
	@echo "next: gatehouse call users ListUsers --as alice"

clean:  ## Removes what was installed and made
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .coverage* build dist site
