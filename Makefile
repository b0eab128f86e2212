# The one door to this project's tools. `make` or `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help setup build quickstart check deny test bench soak

# For quickstart: directories of your own; without them a sample is made.
PRIMARY ?=
SECONDARY ?=
# For soak: how long, in seconds.
SOAK_SECONDS ?= 3600

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## install what building and testing need and is not there yet
	@scripts/setup

build: setup ## build all programs, optimised
	cargo build --release --workspace --bins

quickstart: build ## replicate a directory live and watch it (PRIMARY=dir SECONDARY=dir for your own)
	target/release/geo-rep quickstart $(if $(PRIMARY),--primary "$(PRIMARY)") $(if $(SECONDARY),--secondary "$(SECONDARY)")

check: deny ## formatting, lints, documentation, licences
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

deny: setup ## licences, sources and known vulnerabilities of the dependencies
	@scripts/deny

test: setup ## all tests; GSYNC_NO_SKIP=1 makes a failure of what this machine cannot run
	cargo build --workspace --bins
	cargo test --workspace --no-fail-fast

bench: build ## measure latency and throughput, and write docs/benchmarks.md
	@scripts/setup "lsyncd lsyncd"
	cargo test --release --package gsync-tests -- --ignored --nocapture --test-threads=1 bench_

soak: build ## the long tests; the differential ones for SOAK_SECONDS (an hour)
	GSYNC_SOAK_SECONDS="$(SOAK_SECONDS)" cargo test --release --package gsync-tests -- --ignored --nocapture --test-threads=1 soak_
