# The commands of the kit; `make help` lists them.
# Settings of the services are environment variables: `MODEL_NAME=... make serve`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The newest of the supported Pythons that is there and can make a virtual environment.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# Where CPU wheels of torch are; the package index itself carries the CUDA build of several GB.
# `make TORCH=cuda ...` takes that one.
TORCH ?= cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_VERSION := $(shell sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements/inference.in)

BACKEND ?= docker
OVERLAY ?= local

export BENTOML_DO_NOT_TRACK := True
export MLFLOW_DISABLE_TELEMETRY := true
# Threads of PyTorch that wait for each other sleep. Spinning, the default, made a training on two
# busy cores take 64 s of processor time instead of 11.
export OMP_WAIT_POLICY ?= PASSIVE

STAMP := $(VENV)/.installed-$(TORCH)

##@ Try it
.PHONY: demo serve train compare up down
demo: $(STAMP) ## Train, serve, classify real image files, show them in the database, stop
	$(BIN)/python -m examples.demo

serve: $(STAMP) ## Both services in the foreground, until Ctrl-C
	@exec $(BIN)/python -m examples.serve

train: $(STAMP) ## Train on DATA=folder/<class>/*.png|jpg|bmp and register the model
	$(BIN)/python -m examples.train --data "$(or $(DATA),$(error name a folder: make train DATA=folder))" $(TRAIN_OPTIONS)

compare: $(STAMP) ## Is the challenger better? On labelled pictures of make serve, or DATA=folder/<class>/*
	@$(BIN)/python -m examples.compare $(if $(DATA),--data "$(DATA)") $(COMPARE_OPTIONS)

up: $(STAMP) ## The whole stack in containers: both services, MLflow, Prometheus, Alertmanager, Grafana
	@$(BIN)/python -m compose.stack up

down: $(STAMP) ## Stop that stack (DATA=1 also forgets what it stored)
	@$(BIN)/python -m compose.stack down $(if $(DATA),--volumes)

##@ Check it
.PHONY: test test-fast test-pythons crash-test chaos faults fuzz simulation lint format lock pins
# The tests wait for servers more than they compute, so there are more processes than cores. Those
# of a file share one: see tests/conftest.py. Those marked `serial` come afterwards, one by one.
JOBS ?= 4
PARALLEL = --numprocesses $(JOBS) --no-loadscope-reorder
# Their files are named, so that nothing else is imported.
SERIAL = $$(grep -rl --include='test_*.py' 'mark\.serial' tests)
# Tests that wait for real servers depend on the machine. Up to five that failed run once more, with
# nothing beside them, and decide; those that pass then are named, to be mended.
AGAIN := { test $$? -eq 1 && $(BIN)/python -m tests.again $(OPTIONS); }
test: $(STAMP) ## Run all tests (JOBS=processes; TESTS=path for some, OPTIONS=... for pytest)
ifdef TESTS
	$(BIN)/python -m pytest $(TESTS) $(OPTIONS)
else
	$(BIN)/python -m pytest $(PARALLEL) -m "not serial" $(OPTIONS) || $(AGAIN)
	$(BIN)/python -m pytest -m serial $(SERIAL) $(OPTIONS) || $(AGAIN)
endif

# Every process imports for ten seconds before its first test, so that more of them gain nothing.
test-fast: JOBS = 3
test-fast: $(STAMP) ## Run the tests that start no service, in about a minute
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not serial" $(OPTIONS)

test-pythons: $(STAMP) ## Run those that need no torch on every other Python that is installed
	@.ci/pythons

crash-test: $(STAMP) ## Rebuild the files of 10,000 power cuts and check what was acknowledged
	$(BIN)/python -m tests.crash $(OPTIONS)

chaos: $(STAMP) ## Kill, cut and fill what there is, and count every prediction; writes docs/chaos.md
	$(BIN)/python -m tests.chaos --page docs/chaos.md $(OPTIONS)

faults: $(STAMP) ## Inject every fault and see what probes and alerts say; writes docs/faults.md
	$(BIN)/python -m tests.faults --page docs/faults.md $(OPTIONS)

fuzz: $(STAMP) ## 100,000 hostile requests, and hostile input to every parser; writes docs/fuzzing.md
	$(BIN)/python -m tests.fuzz --page docs/fuzzing.md $(OPTIONS)

simulation: $(STAMP) ## Run the delivery's protocol in virtual time, 100,000 schedules of faults
	$(BIN)/python -m tests.simulation $(OPTIONS)

lint: $(STAMP) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One lock holds for every supported Python. torch stands in none: its CPU wheels, of several
# sources, have hashes of their own, and it is installed before the others.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --annotation-style line --no-emit-package torch
lock: $(STAMP) ## Pin the dependencies anew (UPGRADE=--upgrade for newer ones)
	$(COMPILE) $(UPGRADE) -o requirements/dev.txt requirements/dev.in
	$(COMPILE) -c requirements/dev.txt -o requirements/inference.txt requirements/inference.in
	$(COMPILE) -c requirements/dev.txt -o requirements/logging.txt requirements/logging.in
	# A line a package, so that another version of it is another line.
	sed -i -z 's/ \\\n    --hash=/ --hash=/g; s/, -c requirements\/dev.txt//g; s/-c requirements\/dev.txt, //g; s/\n# The following packages were excluded.*//' requirements/dev.txt requirements/inference.txt requirements/logging.txt
	# BentoML installs this file into the image, with uv, which takes a line without a hash.
	echo "torch==$(TORCH_VERSION)" >> requirements/inference.txt

pins: $(STAMP) ## Check that the pinned packages resolve and have no known vulnerability
	@.ci/pins

##@ Ship it
.PHONY: build containerize deploy undeploy render docs
build: $(STAMP) ## Two Bentos: inference_service and logging_service
	$(BIN)/python -m images.build

containerize: $(STAMP) ## Two OCI images of them (BACKEND=docker|podman|buildah)
	$(BIN)/python -m images.containerize --backend $(BACKEND) --torch $(TORCH)

render: $(STAMP) ## Write the generated rules, dashboards and pages anew
	$(BIN)/python -m monitoring.generate
	$(BIN)/python -m docs.generate

docs: $(STAMP) ## The documents as a site, in build/site (SERVE=1 shows it at http://127.0.0.1:8080)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(if $(SERVE),serve --dev-addr 127.0.0.1:8080,build --strict)

deploy: $(STAMP) ## kubectl apply -k k8s/overlays/OVERLAY, and wait for the rollout
	$(BIN)/python -m k8s.deploy apply --overlay $(OVERLAY)

undeploy: $(STAMP) ## Remove what deploy made; the namespace and the volumes stay
	$(BIN)/python -m k8s.deploy delete --overlay $(OVERLAY)

##@ Watch it
.PHONY: monitoring browse loadtest bench
monitoring: $(STAMP) ## Prometheus, Alertmanager, Grafana beside a running `make serve`
	@exec $(BIN)/python -m monitoring.stack

browse: $(STAMP) ## Datasette, read only, on the database of a `make serve` (DATABASE_PATH), port 8002
	@exec $(BIN)/python -m examples.browse

loadtest: $(STAMP) ## Locust, headless, with a verdict on the probes (UI=1 for its web page)
	$(BIN)/python -m loadtests.run

bench: $(STAMP) ## The side-by-side benchmark against other servers
	$(BIN)/python -m benchmarks $(OPTIONS)

##@ Set up
.PHONY: setup clean help
setup: $(STAMP) ## The virtual environment with everything in it

PIP := $(BIN)/pip --disable-pip-version-check install --progress-bar off
UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements/dev.txt)
# Lines of pip and uv that tell how far they are, without a line for each of 200 packages.
PROGRESS := grep --line-buffered -E '^(Downloading|Resolved|Prepared|Installed|Uninstalled|error|ERROR| *Downloaded|  ×|  cause|hint)' || true

$(STAMP): requirements/dev.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 with its venv module is installed: on Debian and Ubuntu apt-get install python3-venv, or name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "1/3 $(VENV): $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
ifeq ($(TORCH),cpu)
	@echo "2/3 torch $(TORCH_VERSION), the CPU build, 190 MB"
	@$(PIP) --no-deps --retries 0 --extra-index-url $(TORCH_INDEX) torch==$(TORCH_VERSION)+cpu 2>$(VENV)/torch.log | { $(PROGRESS); } \
		|| { echo "no CPU wheel of torch to be had ($(VENV)/torch.log says why); taking the package index's, several GB"; $(PIP) torch==$(TORCH_VERSION) | { $(PROGRESS); }; }
else
	@echo "2/3 torch $(TORCH_VERSION) with CUDA, several GB"
	@$(PIP) torch==$(TORCH_VERSION) | { $(PROGRESS); }
endif
	@echo "3/3 $$(grep -c '^[a-z]' requirements/dev.txt) packages, 350 MB"
	@$(PIP) --quiet uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --require-hashes -r requirements/dev.txt 2>&1 | { $(PROGRESS); } \
		|| { echo "uv cannot install them; taking pip, which uses its own settings and needs a minute"; $(PIP) --quiet --require-hashes -r requirements/dev.txt; }
	@touch $(STAMP)

clean: ## Remove the virtual environment, local data and reports
	rm -rf $(VENV) .data reports

help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
