.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SECONDS := 60
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo serve docs docs-settings test test-keycloak test-compose test-template test-testbed test-upgrade \
  new-service realm-check realm-edit images sbom compose-profile lint lint-workflows lint-deploy fuzz mutants format generate \
  manifests release-protos lock install install-testbed clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: install-testbed  ## Start everything on this machine, show who can call what, then remove everything
	@$(BIN)/gatehouse demo

serve: install-testbed  ## Start the same system, keep it running, and print commands to try
	@$(BIN)/gatehouse demo --keep

# <part console>
.PHONY: pictures test-browser

pictures: $(VENV)/.browser  ## Take the screenshots of the console in docs/pictures/ (needs Chromium or Chrome)
	@PICTURES=docs/pictures $(BIN)/python -m pytest -q tests/browser/test_pictures.py

test-browser: $(VENV)/.browser  ## Test the console in a real browser (needs Chromium or Chrome)
	@$(BIN)/python -m pytest -q --durations=5 tests/browser

test-compose: $(VENV)/.browser

$(VENV)/.browser: $(VENV)/.dev requirements/browser.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/browser.txt
	@touch $@

# </part console>

test: install  ## Run the tests, with coverage (DURATIONS=1 lists the ten slowest)
	@$(BIN)/python tools/test.py tests $(if $(DURATIONS),--durations=10)

test-keycloak: install  ## Run the contract tests on a real Keycloak (needs KEYCLOAK_HOME, JAVA_HOME)
	@$(BIN)/python -m pytest -q tests/issuers --issuer keycloak

realm-check: install  ## Import the realm file into Keycloak and compare (needs KEYCLOAK_HOME, JAVA_HOME)
	@$(BIN)/python tools/realm.py check

realm-edit: install  ## Edit the realm file in Keycloak's console (needs KEYCLOAK_HOME, JAVA_HOME)
	@$(BIN)/python tools/realm.py edit

test-compose: install  ## Start docker-compose.yml and test it from outside (needs Docker, Chromium or Chrome)
	@$(BIN)/python -m pytest -q --durations=10 tests/compose

# <part interop>
.PHONY: test-interop

test-interop: install  ## Call the services with grpcurl and with clients in Go and Node (needs Go and Node)
	@$(BIN)/python -m pytest -q --durations=5 tests/interop
# </part interop>

test-testbed: install  ## Test the demo and the test bed, also from a wheel, and the examples in examples/testbed (needs Go, Node, Java, Maven; CYCLES=200: starts)
	@$(BIN)/python tools/test.py tests/testbed --durations=5
	@$(BIN)/python -m pytest -q --durations=5 tests/wheel

new-service: install  ## Add a service: make new-service NAME=billing (RESOURCE=invoice)
	@$(BIN)/python tools/new_service.py "$(NAME)" "$(RESOURCE)"

.PHONY: new-rpc new-scope remove

new-rpc: install  ## Add an RPC: make new-rpc SERVICE=users NAME=RenameUser (STREAM=requests, responses or both)
	@$(BIN)/python tools/new_rpc.py "$(SERVICE)" "$(NAME)" "--stream=$(STREAM)"

new-scope: install  ## Add a scope to the realm: make new-scope NAME=close:bills ROLE=editor
	@$(BIN)/python tools/new_scope.py "$(NAME)" "$(ROLE)"

remove: install  ## Remove a service or another part: make remove NAME=billing
	@$(BIN)/python -m tools.remove "$$NAME"

# <part fork>
.PHONY: fork test-fork

fork: install  ## Write a new repository: make fork NAME=acme-billing (DIR=../acme-billing, WITHOUT=admin,console)
	@$(BIN)/python -m tools.fork "--name=$$NAME" "--dir=$$DIR" "--without=$$WITHOUT"

test-fork: install  ## Fork this repository twice, and check both (FULL=1 runs all tests of both)
	@$(BIN)/python -m pytest -q -n 2 --durations=5 tests/fork $(if $(FULL),--full)
# </part fork>

test-template: install  ## Remove and add a service in a copy of the repository, and check the results
	@$(BIN)/python -m pytest -q --durations=5 tests/template

# <part benchmarks>
.PHONY: test-bench bench bench-scale bench-record

test-bench: install  ## Check the harness of `make bench`, with short runs
	@$(BIN)/python -m pytest -q tests/benchmarks

bench: install  ## Compare the speed with minimal servers (about 4 minutes, on an idle machine)
	@$(BIN)/python -m benchmarks

bench-scale: install  ## Measure the rate of 1, 2 and 4 processes of a service
	@$(BIN)/python -m benchmarks --only scale

bench-record: install  ## Measure speed and write benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks --record benchmarks/RESULTS.md
# </part benchmarks>

# <part chaos>
.PHONY: test-chaos chaos chaos-record test-ha

test-chaos: install  ## Check the harness of `make chaos`, with short runs
	@$(BIN)/python -m pytest -q tests/chaos

chaos: install  ## Inject faults into a system under load (about 5 minutes; FAULT=NAME: one; QUICK=1: fewer; LIST=1: names)
	@$(BIN)/python -m tests.chaos $(if $(LIST),--list) $(if $(QUICK),--quick) $(addprefix --fault ,$(FAULT))

chaos-record: install  ## Inject all faults and write the table in docs/reliability.md
	@$(BIN)/python -m tests.chaos --record docs/reliability.md

test-ha: install $(VENV)/ha/.done  ## Test replicas behind Envoy, failover with Patroni, and PgBouncer (needs etcd and PgBouncer; QUICK=1: fewer)
	@$(BIN)/python -m pytest -q -s tests/ha $(if $(QUICK),--quick)
	@$(BIN)/python -m pytest -q -n 2 tests/storage --pooler pgbouncer
# </part chaos>

test-upgrade: install  ## Run the previous version's services on the new schema (PREVIOUS=v1.4.0: a commit or tag)
	@$(BIN)/python -m pytest -q -n 2 --durations=2 tests/upgrade $(if $(PREVIOUS),"--previous=$(PREVIOUS)")

lint: install  ## Check style, types, imports, generated code, links and unused code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/generate.py --check
	$(BIN)/python -m tools.check_migrations
	$(BIN)/python tools/document.py --check
	$(BIN)/python tools/check_links.py
	$(BIN)/vulture

lint-workflows:  ## Check .github/workflows with actionlint (needs Go)
	@actionlint=$$($(PYTHON) tools/go_tools.py actionlint) && "$$actionlint"

lint-deploy: install  ## Check deploy/ with kustomize, kubeconform and promtool (needs Go)
	@$(BIN)/python -m tools.lint_deploy

format: install  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: install  ## Fuzz all parsers, SECONDS=60 each (SEED=1 repeats; TARGETS=filter: one); a failure goes to tests/fuzz/corpus/
	@$(BIN)/python -m tools.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(TARGETS)

mutants: install $(VENV)/mutants/.done  ## Run mutation tests on the authorization code (CHANGED=main: changed lines; MODULES=rpc/policy.py: one)
	@$(BIN)/python -m tools.mutants $(if $(CHANGED),--changed $(CHANGED) --seconds 120) $(MODULES)

generate: install  ## Generate the stubs and deploy/ from protos/
	$(BIN)/python tools/generate.py
	$(BIN)/python -m tools.manifests

manifests: install  ## Generate the files of deploy/ from the services and the rules
	@$(BIN)/python -m tools.manifests

docs: $(VENV)/docs/.done  ## Build the documentation as a site, in site/
	@$(VENV)/docs/bin/python -m tools.build_docs

docs-settings: install  ## Write docs/settings.md from the settings in code
	$(BIN)/python tools/document.py

release-protos: install  ## Make the current protos the baseline for breaking changes
	$(BIN)/python tools/generate.py --release

lock: install  ## Pin the dependencies again, with hashes
	$(BIN)/python tools/lock.py

install: $(VENV)/.dev  ## Create .venv with the dependencies and the tools, as most targets do

install-testbed: $(VENV)/.testbed  ## Create .venv with the dependencies only

$(VENV)/bin/python:
	@echo "creating $(VENV)"
	@$(PYTHON) tools/check_python.py
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.testbed: $(VENV)/bin/python requirements/testbed.txt pyproject.toml
	@if [ -e $(VENV)/.dev ] && [ $(VENV)/.dev -nt requirements/dev.txt ]; then :; else \
	  echo "installing the dependencies (once, about a minute)"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/testbed.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; fi
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python requirements/dev.txt pyproject.toml
	@echo "installing the dependencies and tools (once, about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

images:  ## Build the images for amd64 and arm64, with labels from git (needs docker buildx; REGISTRY=, TAGS=, PUSH=1)
	@REVISION=$$(git rev-parse HEAD) CREATED=$$(git show --no-patch --format=%cI) docker buildx bake --file docker-bake.hcl $(if $(PUSH),--push)

.PHONY: wheel
DIST := dist

# From a copy of what the Dockerfile copies: what is absent is left out of the wheel.
wheel: install  ## Write the wheel for servers, with the content of the image, to dist/
	@rm -rf "$(DIST)/source" && mkdir -p "$(DIST)/source"
	@tar -c --exclude __pycache__ pyproject.toml README.md LICENSE services/buf services/gatehouse migrations | tar -x -C "$(DIST)/source"
	@cd "$(DIST)/source" && HATCH_QUIET=1 "$(abspath $(BIN))/python" -m hatchling build --target wheel --directory ..
	@rm -rf "$(DIST)/source"
	@echo "$(DIST)"/*.whl

sbom: $(VENV)/sbom/.done  ## Write the bill of materials (CycloneDX) to dist/gatehouse.cdx.json
	@mkdir -p dist
	@PYTHONWARNINGS=ignore $(VENV)/sbom/bin/cyclonedx-py requirements requirements/runtime.txt --pyproject pyproject.toml \
	  --output-reproducible --output-format JSON --output-file dist/gatehouse.cdx.json
	@echo "dist/gatehouse.cdx.json"

# Tools with an environment of their own, so that they do not constrain what runs: .venv/docs, .venv/sbom, .venv/mutants.
$(VENV)/%/.done: requirements/%.txt $(VENV)/bin/python
	@echo "installing the tools of $(VENV)/$* (once)"
	@$(PYTHON) -m venv $(VENV)/$*
	@$(VENV)/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

compose-profile:  ## Copy the profile and CA of the running containers to compose/local/
	@mkdir -p compose/local
	@{ docker compose cp setup:/run/setup/client/profile.json compose/local/ && \
	  docker compose cp setup:/run/setup/client/ca.crt compose/local/; } 2>/dev/null || { \
	  echo "the containers are not running; start them with: docker compose up --wait" >&2; exit 1; }
	@echo "export GATEHOUSE_PROFILE=$(CURDIR)/compose/local/profile.json"
	@echo "next: $(BIN)/gatehouse call users ListUsers --as alice"

clean:  ## Remove everything that was installed or generated
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .coverage* build dist site
