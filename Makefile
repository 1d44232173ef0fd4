# `make demo` and `make test` are all a newcomer needs; CONTRIBUTING.md has the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# Where cargo builds. Yours where you set CARGO_TARGET_DIR; .ci/run sets one outside of the checkout.
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
DENY_VERSION := 0.20.2
export PATH := $(TARGET)/tools/bin:$(PATH)

build: ## the binaries cloud-hub, edge-agent and edgeway, into target/release
	@cargo build --release --package cloud-hub --package edge-agent --package edgeway

.PHONY: help build demo test verify deny bench fuzz fuzz-smoke proto

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: ## a hub and two agents on this machine, with curl lines to paste (ARGS="--once", ARGS="--rest-port 8088")
	@cargo build --release --package edgeway
	exec $(TARGET)/release/edgeway demo $(ARGS)

test: ## all tests, with real partners; installs those that are missing (ARGS="--package edgeway-proto")
	@tests/partners/install test
	mkdir -p $(TARGET)
	# --no-fail-fast: one run shows everything that is broken.
	status=0
	cargo test $(or $(ARGS),--workspace) --no-fail-fast 2>&1 | tee $(TARGET)/test.log || status=$$?
	.ci/count $(TARGET)/test.log || status=1
	exit $$status

verify: deny ## format, lints, docs and dependencies
	@cargo fmt --all --check
	cargo fmt --manifest-path proto/fuzz/Cargo.toml --check -- --config-path .
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items
	echo "verify: all good"

# Advisories are left out: their database is a git repository, and where builds run only registries are reachable.
deny:
	@if ! command -v cargo-deny >/dev/null; then
		echo "installing cargo-deny $(DENY_VERSION) into $(TARGET)/tools (about a minute)"
		# A debug build: it takes a quarter of the time, and the check itself still takes only a second.
		cargo install cargo-deny --version $(DENY_VERSION) --locked --debug --root $(TARGET)/tools \
			--target-dir $(TARGET)/tools-build --quiet
	fi
	cargo deny --locked check licenses bans sources

bench: ## the benchmarks, against nginx and a raw QUIC stream (ARGS="--quick", ARGS="--rounds 5 --seconds 4")
	@tests/partners/install bench
	cargo build --release --package cloud-hub --package edge-agent --package edgeway-tests --bins
	exec $(TARGET)/release/bench $(ARGS)

fuzz: ## every fuzz target for 60 s (TARGETS="frames hello")
	@tests/partners/install fuzz
	proto/fuzz/run 60 $(TARGETS)

fuzz-smoke: ## every fuzz target for 5 s
	@tests/partners/install fuzz
	proto/fuzz/run 5

proto: ## writes proto/src/gen from proto/edgeway.proto
	@UPDATE_PROTO=1 cargo test --package edgeway-proto --test generated
