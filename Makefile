# The one entrance: every command that a person or a machine runs on this project is a target here.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# Built tools, libtorch, the demo's model and images live here, outside the tree; they are made again only when versions change.
export FINETUNE_CACHE ?= $(HOME)/.cache/finetune-operator
export LIBTORCH := $(FINETUNE_CACHE)/libtorch-2.11.0
export LD_LIBRARY_PATH := $(LIBTORCH)/lib:$(LD_LIBRARY_PATH)
export FINETUNE_S3_GATEWAY := $(FINETUNE_CACHE)/bin/current/versitygw
export FINETUNE_MODEL := $(FINETUNE_CACHE)/models/SmolLM2-135M-Instruct.Q4_1.gguf
export CARGO_TERM_COLOR ?= never

CLUSTER := tests/cluster
IN_CLUSTER := $(CLUSTER)/run.sh

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## Install Debian packages, fetch libtorch and the demo's model (as root)
	@$(CLUSTER)/setup.sh
	images/fetch-libtorch.sh >/dev/null
	$(CLUSTER)/fetch-model.sh >/dev/null

.PHONY: tools
tools: setup ## Build the cluster's tools from their Go modules
	@$(CLUSTER)/build-tools.sh

.PHONY: generate
generate: ## Write the generated files: CRDs, and their copies in the chart
	@cargo run --quiet --release -p finetune-crds --bin generate-crds -- crds/yaml docs/reference.md
	cp crds/yaml/*.yaml charts/finetune-operator/files/crds/

.PHONY: check
check: setup ## Format, lints, dependencies, drift of generated files
	@cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
	$(CLUSTER)/check-dependencies.sh
	cargo run --quiet --release --locked -p finetune-crds --bin generate-crds -- --check crds/yaml docs/reference.md
	diff -r crds/yaml charts/finetune-operator/files/crds || { echo "the chart's CRDs are not those of crds/yaml; run make generate" >&2; exit 1; }
	examples/support/check.sh

.PHONY: test
test: check ## Everything: checks, unit tests, and the whole system on a real cluster
	@$(MAKE) --no-print-directory test-unit
	$(MAKE) --no-print-directory test-system

.PHONY: test-unit
test-unit: setup ## The tests that need no cluster
	@$(CLUSTER)/build-tools.sh versitygw
	cargo test --release --locked --workspace --exclude system-tests

.PHONY: test-system
test-system: images cluster-up ## The tests that need the cluster
	@cargo test --release --locked -p system-tests --no-run
	$(IN_CLUSTER) tests/install.sh
	$(IN_CLUSTER) cargo test --release --locked -p system-tests -- --test-threads=1 --nocapture

.PHONY: images
images: setup ## Build the images of operator and trainer
	@cargo build --release --locked -p operator -p trainer
	images/build.sh

.PHONY: cluster-up
cluster-up: tools images ## Start a real Kubernetes on this machine, with an S3 server
	@$(CLUSTER)/up.sh
	$(CLUSTER)/load-images.sh
	$(CLUSTER)/s3.sh

.PHONY: cluster-down
cluster-down: ## Stop the cluster and leave nothing behind
	@$(CLUSTER)/down.sh

.PHONY: demo
demo: cluster-up ## Install the chart, fine-tune a model on examples/support, serve it and talk to it
	@tests/demo.sh

.PHONY: bench
bench: setup ## Speed of a training step
	@cargo run --release --locked -p trainer --example step_speed

.PHONY: parity
parity: setup ## Make the numeric fixtures again with the reference stack, and compare
	@tests/parity/run.sh

.PHONY: clean
clean: ## Remove build output of this tree; the cache stays
	@cargo clean
