# The commands of the kit; `make help` lists them.
# Settings of the services are environment variables: `MODEL_NAME=... make serve`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
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

STAMP := $(VENV)/.installed-$(TORCH)

##@ Try it
.PHONY: demo serve train
demo: $(STAMP) ## Train, serve, classify real image files, show them in the database, stop
	$(BIN)/python -m examples.demo

serve: $(STAMP) ## Both services in the foreground, until Ctrl-C
	@exec $(BIN)/python -m examples.serve

train: $(STAMP) ## Train on DATA=folder/<class>/*.png|jpg|bmp and register the model
	$(BIN)/python -m examples.train --data "$(or $(DATA),$(error name a folder: make train DATA=folder))" $(TRAIN_OPTIONS)

##@ Check it
.PHONY: test lint format lock
test: $(STAMP) ## Run all tests (TESTS=path for some, OPTIONS=... for pytest)
	$(BIN)/python -m pytest $(or $(TESTS),tests) $(OPTIONS)

lint: $(STAMP) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

COMPILE := $(BIN)/pip-compile --quiet --strip-extras --no-header --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --annotation-style line
lock: $(STAMP) ## Pin the dependencies anew (UPGRADE=--upgrade for newer ones)
	$(COMPILE) $(UPGRADE) -o requirements/dev.txt requirements/dev.in
	$(COMPILE) -c requirements/dev.txt -o requirements/inference.txt requirements/inference.in
	$(COMPILE) -c requirements/dev.txt -o requirements/logging.txt requirements/logging.in
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/; s/, -c requirements\/dev.txt//; s/-c requirements\/dev.txt, //' requirements/*.txt

##@ Ship it
.PHONY: build containerize deploy undeploy render
build: $(STAMP) ## Two Bentos: inference_service and logging_service
	$(BIN)/python -m images.build

containerize: $(STAMP) ## Two OCI images of them (BACKEND=docker|podman|buildah)
	$(BIN)/python -m images.containerize --backend $(BACKEND) --torch $(TORCH)

render: $(STAMP) ## Write the generated rules, dashboards and pages anew
	$(BIN)/python -m monitoring.prometheus.generate
	$(BIN)/python -m monitoring.grafana.generate
	$(BIN)/python -m monitoring.kubernetes.generate
	$(BIN)/python -m docs.generate

deploy: $(STAMP) ## kubectl apply -k k8s/overlays/OVERLAY, and wait for the rollout
	$(BIN)/python -m k8s.deploy apply --overlay $(OVERLAY)

undeploy: $(STAMP) ## Remove what deploy made; the namespace and the volumes stay
	$(BIN)/python -m k8s.deploy delete --overlay $(OVERLAY)

##@ Watch it
.PHONY: monitoring loadtest bench
monitoring: $(STAMP) ## Prometheus, Alertmanager, Grafana beside a running `make serve`
	@exec $(BIN)/python -m monitoring.stack

loadtest: $(STAMP) ## Locust, headless, with a verdict on the probes (UI=1 for its web page)
	$(BIN)/python -m loadtests.run

bench: $(STAMP) ## The side-by-side benchmark against other servers
	$(BIN)/python -m benchmarks $(OPTIONS)

##@ Set up
.PHONY: setup clean help
setup: $(STAMP) ## The virtual environment with everything in it

$(STAMP): requirements/dev.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; install it or name another 3.11: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "the dependencies are pinned for Python 3.11: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setting up $(VENV): about two minutes the first time"
	@$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --retries 0 --extra-index-url $(TORCH_INDEX) torch==$(TORCH_VERSION) 2>$(VENV)/torch.log \
		|| echo "no CPU wheel of torch to be had ($(VENV)/torch.log says why); taking the package index's, several GB"
endif
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $(STAMP)

clean: ## Remove the virtual environment, local data and reports
	rm -rf $(VENV) .data reports

help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
