# One way to do each thing; CI calls the same targets.
CARGO ?= cargo
SEEDS ?= 0..2000
SECONDS_EACH ?= 60

.PHONY: help check fix test demo bench flame sim sim-planted fuzz python deny

help:            ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

check:           ## format, lints, licences and bans; writes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(MAKE) deny

deny:            ## licence, ban and source checks (cargo-deny, when installed)
	@if command -v cargo-deny >/dev/null; then cargo-deny --locked check licenses bans sources; \
	else echo "cargo-deny is not installed: 'cargo install --locked cargo-deny' (CI installs it)"; fi

fix:             ## format and apply what clippy can
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged

test:            ## every test
	$(CARGO) test --workspace --locked

python:          ## the Python client against a real node
	$(CARGO) build --locked
	cd clients/python && IRONRING_BIN=$(CURDIR)/target/debug/ironring python3 -m unittest discover -s tests

demo:            ## start a cluster, load it, kill its leader, add a node, verify
	$(CARGO) run --release --locked -- demo

bench:           ## criterion benches
	$(CARGO) bench -p ironring-perf

flame:           ## flamegraphs of the main workloads into perf/
	perf/flame

sim:             ## the simulator over SEEDS (default 0..2000)
	$(CARGO) run --release --locked -p ironring-tests --bin sim -- --seeds $(SEEDS)

sim-planted:     ## planted bugs must be found
	tests/planted/run

fuzz:            ## each fuzz target for SECONDS_EACH seconds
	tests/fuzz/run --seconds $(SECONDS_EACH)
