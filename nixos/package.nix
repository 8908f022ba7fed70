# overstore, as `make install` installs it.
{
  lib,
  rustPlatform,
  stdenv,
}:
let
  manifest = (lib.importTOML ../Cargo.toml).package;
in
rustPlatform.buildRustPackage {
  pname = manifest.name;
  inherit (manifest) version;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.lock
      ../Cargo.toml
      ../Makefile
      ../benches
      ../clippy.toml
      ../docs
      ../fixtures
      ../src
      ../tests
      ../vm-tests/Cargo.toml
      ../vm-tests/src
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;

  # The others mount, and run real Nix: the tests in virtual machines do that.
  cargoTestFlags = [ "--lib" ];

  installPhase = ''
    runHook preInstall
    make install PREFIX=$out \
      PROGRAM=target/${stdenv.hostPlatform.rust.cargoShortTarget}/release/overstore
    runHook postInstall
  '';

  meta = {
    inherit (manifest) description;
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "overstore";
    platforms = lib.platforms.linux;
  };
}
