# Two commands do all the set-up: `make demo` and `make test`.

CARGO ?= cargo

.PHONY: build release demo test lint setup fmt

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

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all
