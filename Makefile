# The two to begin with, on a Debian machine with cargo: `make run` and `make test`. Both install what they need.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Arguments of `sls run`.
ARGS ?= --show-events
# The kernel of vm-smoke, and for how long it begins tests.
KERNEL ?= 6.12
SMOKE_SECONDS ?= 120
# The guests of vm-test (default: all), the crates whose tests are run, and a part of the names of the tests to run.
KERNELS ?=
RINGS ?= probe actions cli
TESTS ?=
# `--check`: the benchmarks fail if a target is missed.
BENCH_ARGS ?=
# Anything: only the matcher beside the fastest other engines, roughly, in less than a minute once that is built.
QUICK ?=
# Arguments of the noise measurement.
NOISE_ARGS ?=
# Seconds for each fuzz target: of fuzz-smoke 10, of fuzz an hour.
FUZZ_SECONDS ?=
# The fuzz targets of fuzz and fuzz-seeds (default: all).
FUZZ_TARGETS ?=

export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Of the workspace with the other engines.
PEERS := $(or $(CARGO_TARGET_DIR),benches/peers/target)
LAB := $(TARGET)/debug/sls-lab
HOST := $(shell rustc -vV | sed -n 's/^host: //p')

# The sensor and the tests that run against this machine's kernel need root; cargo and the build do not.
ifneq ($(shell id -u),0)
SUDO := sudo -E env PATH=$(PATH)
RUNNER := CARGO_TARGET_$(shell tr a-z- A-Z_ <<<'$(HOST)')_RUNNER
WITH_ROOT := $(RUNNER)='$(SUDO)'
endif

heading = @printf '\n=== %s\n' '$(1)'

##@ Use

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Build and start the sensor: built-in content, dry run (ARGS="…" goes to `sls run`)
	@.ci/setup.sh build
	$(call heading,build)
	cargo build --release -p sls-cli
	$(call heading,sls run $(ARGS))
	@exec $(SUDO) $(TARGET)/release/sls run $(ARGS)

##@ Check

.PHONY: test
test: test-crates instructions fuzz-smoke vm-smoke ## Every ring of tests: crates, the matcher's cost, fuzz targets, another kernel
	$(call heading,all tests passed)
	@awk '/^test result:/ { n++; passed += $$4; failed += $$6; ignored += $$8 } \
	  END { printf "cargo test: %d passed, %d failed, %d ignored, in %d runs\n", passed, failed, ignored, n }' $(TARGET)/test.log

.PHONY: test-crates
test-crates: ## Unit, documentation, integration and real-kernel tests (the last as root)
	@.ci/setup.sh build test
	@mkdir -p $(TARGET)
	$(call heading,cargo test)
	$(WITH_ROOT) cargo test --workspace --no-fail-fast 2>&1 | tee $(TARGET)/test.log

.PHONY: instructions
instructions: ## The instructions that the matcher takes, counted by callgrind: none may take 5 % more than committed
	@.ci/setup.sh build count
	$(call heading,instructions of the matcher)
	.ci/instructions.sh

.PHONY: fuzz-smoke
fuzz-smoke: ## Each fuzz target for FUZZ_SECONDS (10)
	@.ci/setup.sh build test
	$(call heading,fuzz targets)
	.ci/fuzz.sh -t $(or $(FUZZ_SECONDS),10)

.PHONY: fuzz
fuzz: ## Each fuzz target for FUZZ_SECONDS (3600); FUZZ_TARGETS="record proc" for these only
	@.ci/setup.sh build test
	$(call heading,fuzz targets)
	.ci/fuzz.sh -t $(or $(FUZZ_SECONDS),3600) $(FUZZ_TARGETS)

.PHONY: fuzz-coverage
fuzz-coverage: ## What the fuzz targets cover of what they attack; writes the table in docs/fuzzing.md
	@.ci/setup.sh build test coverage
	$(call heading,coverage of the fuzz targets)
	.ci/fuzz.sh -c

.PHONY: miri
miri: ## Unit tests of sls-core under Miri (nightly)
	$(call heading,Miri)
	.ci/miri.sh

.PHONY: tsan
tsan: ## The sensor under the thread sanitizer, acting and reloading (nightly, root, about 2 GiB)
	@.ci/setup.sh build test
	$(call heading,thread sanitizer)
	$(SUDO) .ci/tsan.sh

.PHONY: vm-smoke
vm-smoke: vm-build ## The tests of the real kernel under KERNEL (6.12), in QEMU: as many as SMOKE_SECONDS (120) allow
	$(call heading,tests under Linux $(KERNEL))
	$(SUDO) $(LAB) run -b $(SMOKE_SECONDS) $(KERNEL)

.PHONY: vm-test
vm-test: vm-build ## Every test of the real kernel in every guest (KERNELS="5.10 6.1", RINGS=cli, TESTS=part-of-a-name); renews the README's table
	@.ci/setup.sh bpf
	.ci/lab/refuse.sh $(abspath $(TARGET))/lab/refuse.bpf.o
	$(SUDO) .ci/lab/fetch-kernels.sh 6.1
	.ci/lab/payload/build.sh 6.1 || echo 'without the kernel payload: its headers cannot be had'
	$(call heading,tests under Linux $(or $(KERNELS),of every series))
	$(SUDO) $(LAB) run -r '$(RINGS)' -t '$(TESTS)' $(KERNELS)
	$(if $(TESTS),,$(LAB) record $(KERNELS))

.PHONY: vm-build
vm-build:
	@mkdir -p $(TARGET)/lab/results $(TARGET)/lab/bin
	@.ci/setup.sh build test lab
	$(call heading,build for the lab)
	cargo build -p sls-lab
	cargo build -p sls-cli --message-format=json-render-diagnostics >$(TARGET)/lab/built.json
	cargo test -p sls-probe -p sls-actions -p sls-cli --no-run --message-format=json-render-diagnostics >>$(TARGET)/lab/built.json

.PHONY: lint
lint: ## Format, clippy, documentation, scripts, the BPF object, dependencies
	@.ci/setup.sh build lint
	$(call heading,format)
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo fmt --manifest-path benches/peers/Cargo.toml --check
	$(call heading,clippy)
	cargo clippy --workspace --all-targets -- -D warnings
	$(call heading,documentation)
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps
	$(call heading,scripts)
	shellcheck .ci/run .ci/*.sh .ci/lab/*.sh .ci/lab/payload/*.sh
	$(call heading,the BPF object is what its source gives)
	@.ci/setup.sh bpf
	sls-probe/bpf/build.sh --check
	$(call heading,the table of kernels is what the lab found)
	cargo run -q -p sls-lab -- table --check
	$(call heading,dependencies)
	@.ci/setup.sh deny
	cargo deny --log-level error check licenses bans sources

.PHONY: audit
audit: ## Known vulnerabilities of the dependencies (needs the network)
	@.ci/setup.sh deny
	cargo deny check advisories

.PHONY: bench
bench: $(if $(QUICK),,bench-sensor) bench-matcher ## What the sensor costs, and its matcher beside other engines (QUICK=1, BENCH_ARGS="--check")

.PHONY: bench-sensor
bench-sensor: ## What the sensor costs: loading, the engine, a spawn loop with and without it
	@.ci/setup.sh build
	$(call heading,build)
	cargo build --release -p sls-cli -p sls-benches
	$(call heading,loading policies)
	$(TARGET)/release/load $(filter --check,$(BENCH_ARGS))
	$(call heading,the engine)
	$(TARGET)/release/engine
	$(call heading,spawn overhead)
	$(SUDO) $(TARGET)/release/spawn-overhead $(BENCH_ARGS)

.PHONY: bench-matcher
bench-matcher: ## The matcher beside other engines: tables, targets, and the curves in docs/matcher.svg
	@.ci/setup.sh build
	$(call heading,build the other engines)
	cargo build --release --manifest-path benches/peers/Cargo.toml
	$(call heading,the matcher beside other engines)
	$(PEERS)/release/sls-bench-peers $(if $(QUICK),--quick,--output docs) $(filter --check,$(BENCH_ARGS))

.PHONY: noise
noise: ## What the built-in content says to ordinary work on this machine (NOISE_ARGS="--check")
	$(SUDO) .ci/noise.sh $(NOISE_ARGS)

##@ Work

.PHONY: bpf
bpf: ## Rebuild the committed BPF object from its source
	@.ci/setup.sh build bpf
	sls-probe/bpf/build.sh

.PHONY: bless-instructions
bless-instructions: ## Commit to what the matcher takes now: writes benches/instructions
	@.ci/setup.sh build count
	.ci/instructions.sh --bless

.PHONY: fuzz-seeds
fuzz-seeds: ## Commit to what fuzzing found: adds the inputs with most coverage to fuzz/seeds
	@.ci/setup.sh build test
	.ci/fuzz.sh -m $(FUZZ_TARGETS)

.PHONY: fmt
fmt: ## Format the Rust sources
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
	cargo fmt --manifest-path benches/peers/Cargo.toml

.PHONY: clean
clean: ## Remove what was built (the lab's kernels in ~/.cache/sls-lab stay)
	cargo clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts benches/peers/target
