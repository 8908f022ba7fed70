.PHONY: help demo test soak bench lint spelling fuzz install uninstall deb static crate dist fresh fresh-packages fresh-test vm-program vm-test vm-soak compare site

PREFIX ?= /usr/local
PROGRAM ?= target/release/overstore
VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml | head -n 1)
RELEASE = overstore-$(VERSION)-x86_64
# What can be run here, where PROGRAM is for another machine.
RUN ?= $(PROGRAM)
TO = $(DESTDIR)$(PREFIX)
SCENARIO ?=
AREA ?=
TARGET ?= database

help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.* ## /\1: /p' Makefile

demo: ## Shows the main job on a small real lower store, as root or not
	@tests/needs
	cargo build --release
	fixtures/demo target/release/overstore

test: ## Installs what the tests need (as root), and runs them all, in virtual machines too
	@tests/needs
	tests/setup
	cargo test --workspace --no-fail-fast
	$(MAKE) vm-test

soak: ## Runs the tests that take longer, and whole those that otherwise run in part (as root; AREA: only those of one)
	tests/setup
	cargo test --test it -- --ignored $(AREA)soak_
	OVERSTORE_SOAK=1 cargo test --test it -- odd_files sweeps:: hostile_upper:: exhaustion:: hostile_daemon:: reconcile

bench: ## Measures overstore beside the shell, and writes docs/benchmarks.md (as root)
	tests/setup
	cargo bench --bench overlay

lint: spelling ## Checks the formatting and the spelling, and looks for likely mistakes
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --manifest-path fuzz/Cargo.toml --target-dir target -- -D warnings

spelling: ## Looks for words that are misspelt (codespell; its vocabulary is in .codespellrc)
	@command -v codespell >/dev/null || { echo "make spelling: codespell is missing: run apt-get install codespell" >&2; exit 1; }
	git ls-files -z | xargs -0 codespell

fuzz: ## Feeds hostile input to a reader for ten minutes (TARGET: one of those in fuzz/README.md)
	cargo +nightly fuzz run $(TARGET) -- -max_total_time=600 -timeout=20 -rss_limit_mb=1024

install: ## Installs the program, built before, with all that belongs to it (PREFIX, DESTDIR)
	@[ -x "$(PROGRAM)" ] || { echo "make install: there is no $(PROGRAM): run cargo build --release before" >&2; exit 1; }
	install -D -m 755 $(PROGRAM) $(TO)/bin/overstore
	ln -sf overstore $(TO)/bin/overstore-remount
	install -d $(TO)/lib/systemd/system-generators
	ln -sf ../../../bin/overstore $(TO)/lib/systemd/system-generators/overstore-generator
	install -D -m 644 src/systemd/overstore-initrd@.service $(TO)/lib/systemd/system/overstore-initrd@.service
	install -d $(TO)/share/man
	$(RUN) manual $(TO)/share/man
	install -d $(TO)/share/bash-completion/completions $(TO)/share/zsh/site-functions $(TO)/share/fish/vendor_completions.d
	$(RUN) completions bash >$(TO)/share/bash-completion/completions/overstore
	$(RUN) completions zsh >$(TO)/share/zsh/site-functions/_overstore
	$(RUN) completions fish >$(TO)/share/fish/vendor_completions.d/overstore.fish
	install -d $(TO)/share/doc/overstore
	install -m 644 README.md CHANGELOG.md SECURITY.md LICENSE-MIT LICENSE-APACHE docs/*.md docs/*.svg $(TO)/share/doc/overstore

uninstall: ## Removes what `install` put there (PREFIX, DESTDIR)
	rm -f $(TO)/bin/overstore $(TO)/bin/overstore-remount
	rm -f $(TO)/lib/systemd/system-generators/overstore-generator
	rm -f $(TO)/lib/systemd/system/overstore-initrd@.service
	rm -f $(TO)/share/man/man1/overstore.1 $(TO)/share/man/man1/overstore-*.1
	rm -f $(TO)/share/man/man5/overstore.toml.5 $(TO)/share/man/man8/overstore-generator.8
	rm -f $(TO)/share/bash-completion/completions/overstore
	rm -f $(TO)/share/zsh/site-functions/_overstore
	rm -f $(TO)/share/fish/vendor_completions.d/overstore.fish
	rm -rf $(TO)/share/doc/overstore

deb: ## Builds the Debian package in target/debian, and has lintian look at it (debhelper, lintian)
	mkdir -p target/debian
	debian/rules binary
	lintian --fail-on error,warning target/debian/*.deb

static: ## Builds the program without dynamic dependencies, in target/static (x86-64, glibc)
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
	    cargo build --release --locked --target x86_64-unknown-linux-gnu
	mkdir -p target/static
	install -m 755 target/x86_64-unknown-linux-gnu/release/overstore target/static/overstore
	@! readelf --program-headers target/static/overstore | grep INTERP

crate: ## Packages the crate in target/package, builds what is in it, and does all but publish it
	cargo publish --dry-run --locked

dist: static deb ## Makes everything that a release has, with checksums, in target/dist
	rm -rf target/dist
	mkdir -p target/dist
	$(MAKE) install PROGRAM=target/static/overstore PREFIX= DESTDIR=target/dist/$(RELEASE)
	tar -C target/dist -czf target/dist/$(RELEASE)-linux.tar.gz --owner=0 --group=0 --sort=name $(RELEASE)
	rm -r target/dist/$(RELEASE)
	cp target/debian/overstore_$(VERSION)_*.deb target/dist
	[ ! -e target/package/overstore-$(VERSION).crate ] || cp target/package/overstore-$(VERSION).crate target/dist
	cd target/dist && sha256sum * >SHA256SUMS

fresh: ## Does what the README says in fresh systems of Debian 12, 13 and sid (as root; about 15 minutes)
	tests/fresh demo

fresh-packages: ## Builds the packages on the oldest Debian, and installs, upgrades and purges them on each (as root)
	tests/fresh packages

fresh-test: ## Runs `make test` in a fresh Debian 13 (as root; about an hour)
	tests/fresh test

vm-program:
	rm -rf target/vm-program
	cargo build --profile vm
	$(MAKE) install PROGRAM=target/vm/overstore DESTDIR=target/vm-program PREFIX=/usr

vm-test: vm-program ## Runs the scenarios in virtual machines (SCENARIO: only those with one of these in GUEST/SCENARIO)
	if vm-tests/setup; then \
	    cargo run -q -p vm-tests -- --program target/vm-program $(SCENARIO); \
	else \
	    vm-tests/skip "QEMU and what makes its images cannot be installed here"; \
	fi

vm-soak: vm-program ## Cuts the power during reconcile, and runs a fleet, in virtual machines (as root; some minutes)
	vm-tests/setup
	cargo run -q -p vm-tests -- --program target/vm-program --ignored --exact trixie/reconcile-cut trixie/fleet-of-three

compare: vm-program ## Measures four ways to share a store in a virtual machine, and writes docs/comparison.md (most of an hour)
	vm-tests/setup
	cargo run -q -p vm-tests -- --program target/vm-program --ignored --exact trixie/compare 2>target/comparison.log || \
	    { cat target/comparison.log >&2; exit 1; }
	cargo run -q -p vm-tests --bin comparison -- target/comparison.log docs

site: ## Makes the site in target/site from docs/ with mdBook, and looks whether its links lead somewhere
	site/build
	site/check-links target/site
