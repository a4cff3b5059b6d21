# Two commands do all the set-up: `make demo` and `make test`.

CARGO ?= cargo

.PHONY: build release demo test sim lint setup fmt

build:
	$(CARGO) build --locked

release:
	$(CARGO) build --locked --release

# The whole mesh on one machine, told step by step; goes on until Ctrl-C. Prints nothing else: the steps can be JSON.
demo:
	@tests/setup build
	@$(CARGO) build --locked
	@target/debug/purlin demo $(DEMO_ARGS)

# Everything that CI runs after linting.
test:
	@tests/setup build test
	$(CARGO) test --locked --workspace

# Servers, clients and agents in virtual time: SEEDS=10000 tries many, SEED=7 replays one and tells what happens,
# BUG=ack-before-sync puts an old bug back (see docs/decisions/005-simulation.md).
sim:
	$(CARGO) test --locked -p purlin-server --lib raft::tests::sim::seeds_pass -- --exact --nocapture

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all
