.PHONY: help demo test soak bench lint fuzz install vm-test

PREFIX ?= /usr/local
PROGRAM ?= target/release/overstore
# What can be run here, where PROGRAM is for another machine.
RUN ?= $(PROGRAM)
SCENARIO ?=
TARGET ?= database

help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.* ## /\1: /p' Makefile

demo: ## Shows the main job on a small real lower store, as root or not
	cargo build --release
	fixtures/demo target/release/overstore

test: ## Installs what the tests need (as root), and runs them all, in virtual machines too
	tests/setup
	cargo test --workspace --no-fail-fast
	$(MAKE) vm-test

soak: ## Runs the tests that take longer, and whole those that otherwise run in part (as root)
	tests/setup
	cargo test --test it -- --ignored soak_
	OVERSTORE_SOAK=1 cargo test --test it -- odd_files kill::

bench: ## Measures overstore beside the shell, and writes docs/benchmarks.md (as root)
	tests/setup
	cargo bench --bench overlay

lint: ## Checks the formatting and looks for likely mistakes
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --manifest-path fuzz/Cargo.toml --target-dir target -- -D warnings

fuzz: ## Feeds hostile input to a reader for ten minutes (TARGET: one of those in fuzz/README.md)
	cargo +nightly fuzz run $(TARGET) -- -max_total_time=600 -timeout=20 -rss_limit_mb=1024

install: ## Builds the program, and installs it with all that belongs to it (PREFIX, DESTDIR)
	[ "$(PROGRAM)" != target/release/overstore ] || cargo build --release
	install -D -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/overstore
	ln -sf overstore $(DESTDIR)$(PREFIX)/bin/overstore-remount
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system-generators
	ln -sf ../../../bin/overstore $(DESTDIR)$(PREFIX)/lib/systemd/system-generators/overstore-generator
	install -D -m 644 src/systemd/overstore-initrd@.service $(DESTDIR)$(PREFIX)/lib/systemd/system/overstore-initrd@.service
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(RUN) manual $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(RUN) completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/overstore
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	$(RUN) completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_overstore
	install -d $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(RUN) completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/overstore.fish

vm-test: ## Runs the scenarios in virtual machines (SCENARIO: only those with one of these in GUEST/SCENARIO)
	rm -rf target/vm-program
	cargo build --profile vm
	$(MAKE) install PROGRAM=target/vm/overstore DESTDIR=target/vm-program PREFIX=/usr
	if vm-tests/setup; then \
	    cargo run -q -p vm-tests -- --program target/vm-program $(SCENARIO); \
	else \
	    vm-tests/skip "QEMU and what makes its images cannot be installed here"; \
	fi
