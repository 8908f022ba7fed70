.PHONY: help test bench lint

help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.* ## /\1: /p' Makefile

test: ## Installs what the tests need (as root), and runs them all
	tests/setup
	cargo test

bench: ## Measures overstore beside the shell, and writes docs/benchmarks.md (as root)
	tests/setup
	cargo bench --bench overlay

lint: ## Checks the formatting and looks for likely mistakes
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
