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
generate: ## Write the generated files: CRDs, their copies in the chart, the pages of the reference and of the API
	@cargo run --quiet --release -p finetune-crds --bin generate-crds -- crds/yaml docs/reference.md
	cp crds/yaml/*.yaml charts/finetune-operator/files/crds/
	UPDATE_DOCS=1 cargo test --quiet $(CARGO_SELECTION) --exclude system-tests --lib page_of_the_api

# One profile and one selection of packages for lints, tests and images: another selection would give the dependencies
# other features, and compile them again.
CARGO_SELECTION := --release --locked --workspace

.PHONY: build
build: setup ## Compile everything, tests too
	@cargo test $(CARGO_SELECTION) --no-run

.PHONY: check
check: build ## Format, lints, dependencies, arrows between files, drift of generated files and docs
	@cargo fmt --all --check
	cargo clippy --quiet $(CARGO_SELECTION) --all-targets -- -D warnings
	$(CLUSTER)/check-dependencies.sh
	cargo test --quiet $(CARGO_SELECTION) --test generated_files --test structure
	examples/support/check.sh
	tests/check-docs.sh
	promtool test rules examples/monitoring/alerts-test.yaml

.PHONY: test
test: check ## Everything: checks, unit tests, and the whole system on a real cluster
	@$(MAKE) --no-print-directory test-unit
	$(MAKE) --no-print-directory test-system

.PHONY: test-unit
test-unit: build ## The tests that need no cluster
	@$(CLUSTER)/build-tools.sh versitygw
	cargo test $(CARGO_SELECTION) --exclude system-tests
	$(MAKE) --no-print-directory processors

.PHONY: processors
processors: build ## The tests that compute, as other processors and numbers of threads would (part of test-unit)
	@tests/processors.sh $(CARGO_SELECTION) --exclude system-tests

.PHONY: fuzz
fuzz: build ## The parsers against changed files, for minutes and with other ones each time
	@export FINETUNE_FUZZ_ITERATIONS=$${FINETUNE_FUZZ_ITERATIONS:-300000} FINETUNE_FUZZ_SEED=$${FINETUNE_FUZZ_SEED:-$$RANDOM}
	echo "seed $$FINETUNE_FUZZ_SEED"
	cargo test $(CARGO_SELECTION) --test fuzz --test fuzz_tokenizer

.PHONY: stores
stores: build ## The tests of gs:// and az:// against emulators (needs node; fetches them)
	@tests/stores/run.sh

.PHONY: test-system
test-system: cluster-up ## The tests that need the cluster
	@tests/scripts.sh
	$(IN_CLUSTER) tests/install.sh
	$(IN_CLUSTER) cargo test $(CARGO_SELECTION) --test 'cluster_*' -- --test-threads=1 --nocapture

.PHONY: images
images: build ## Build the images of operator and trainer, and print their archives
	@images/build.sh

.PHONY: cluster-up
cluster-up: tools images ## Start a real Kubernetes on this machine, with an S3 server
	@$(CLUSTER)/up.sh
	$(CLUSTER)/load-images.sh
	$(CLUSTER)/s3.sh models data adapters >/dev/null

.PHONY: cluster-down
cluster-down: ## Stop the cluster and leave nothing behind
	@$(CLUSTER)/down.sh

.PHONY: demo
demo: cluster-up ## Install the chart, fine-tune a model on examples/support, serve it and talk to it
	@tests/demo.sh

.PHONY: bench
bench: setup ## Speed of a training step, beside what libtorch's own products allow, and of whole runs
	@export GOMP_SPINCOUNT=2000
	cargo bench --locked -p finetune-numerics --bench step -- $(ARGS)
	cargo bench --locked -p trainer --bench run -- $(ARGS)

.PHONY: parity
parity: build ## Make the numeric fixtures again with the reference stack, and compare
	@tests/parity/run.sh

.PHONY: clean
clean: ## Remove build output of this tree; the cache stays
	@cargo clean
