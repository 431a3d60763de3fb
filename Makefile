# make help says what there is.
SHELL := /bin/bash

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

test:  ## install what the tests need, check style, build, run all tests
	@deploy/servers/install test
	@$(MAKE) --no-print-directory lint
	cargo build --workspace --quiet
	target/debug/simulate --seconds 20
	RUST_LIB_BACKTRACE=0 KAFKA_JVM=-XX:TieredStopAtLevel=1 deploy/servers/scratch \
	  cargo test --workspace --no-fail-fast --config "target.'cfg(all())'.runner = 'deploy/servers/abreast'"

lint:  ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	@test -z "$$(cargo tree --workspace -e all -i ring 2>/dev/null)" || { echo "ring is enabled: rustls panics with two providers"; exit 1; }

SEEDS ?= 5000
FIRST ?= 1

simulate:  ## the whole system in one thread with all that can go wrong, out of SEEDS seeds from FIRST on
	cargo build --release --quiet -p drover-simulation
	target/release/simulate --seeds $(SEEDS) --first $(FIRST) --all

RUNS ?= 100

chaos:  ## faults at every failpoint on real servers: RUNS of them, from SEED on, for all pairs and forms or one PAIR and FORM
	@deploy/servers/install test
	cargo build --quiet -p drover-cli -p drover-tests --bins
	target/debug/chaos --runs $(RUNS) $(if $(SEED),--seed $(SEED)) $(if $(PAIR),--pair $(PAIR)) $(if $(FORM),--form $(FORM))

demo:  ## a live migration on this machine, from nothing to compared
	@deploy/demo/run

bench:  ## speed, CPU and memory beside the raw COPY pipe, pgcopydb and native replication
	@deploy/bench/run

bench-mysql:  ## the same for MySQL or MariaDB (SERVER=mariadb) beside mydumper+myloader and native replication
	@deploy/bench/mysql

bench-kinds:  ## a copy from MySQL or MariaDB to PostgreSQL and back beside the raw pipe and pgloader
	@deploy/bench/kinds

.PHONY: help test lint simulate chaos demo bench bench-mysql bench-kinds
