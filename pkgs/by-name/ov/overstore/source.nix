# The source that this belongs to, for package.nix.
{ lib }:
{
  src = lib.fileset.toSource {
    root = ../../../..;
    fileset = lib.fileset.unions [
      ../../../../CHANGELOG.md
      ../../../../Cargo.lock
      ../../../../Cargo.toml
      ../../../../LICENSE-APACHE
      ../../../../LICENSE-MIT
      ../../../../Makefile
      ../../../../README.md
      ../../../../SECURITY.md
      ../../../../benches
      ../../../../clippy.toml
      ../../../../docs
      ../../../../fixtures
      ../../../../src
      ../../../../tests
      ../../../../vm-tests/Cargo.toml
      ../../../../vm-tests/src
    ];
  };
  cargoLock.lockFile = ../../../../Cargo.lock;
}
