# overstore, as `make install` installs it.
{
  lib,
  buildPackages,
  nix-update-script,
  rustPlatform,
  stdenv,
  versionCheckHook,

  # The tests in virtual machines, where there are some: default.nix.
  machineTests ? { },
}:
let
  manifest = (lib.importTOML ../Cargo.toml).package;
  # The program writes its own manual pages and completions, where it can be run.
  canExecute = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
in
rustPlatform.buildRustPackage (finalAttrs: {
  pname = manifest.name;
  inherit (manifest) version;

  __structuredAttrs = true;
  strictDeps = true;

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
    program=target/${stdenv.hostPlatform.rust.cargoShortTarget}/release/overstore
    make install PREFIX=$out PROGRAM=$program RUN=${
      if canExecute then "$program" else lib.getExe (buildPackages.callPackage ./package.nix { })
    }
    runHook postInstall
  '';

  nativeInstallCheckInputs = [ versionCheckHook ];
  doInstallCheck = canExecute;

  passthru = {
    tests = machineTests;
    updateScript = nix-update-script { };
  };

  meta = {
    inherit (manifest) description;
    longDescription = ''
      A local-overlay store layers a private, writable Nix store over a shared one with
      OverlayFS. One TOML file says which store lies below and which directory takes what
      is new; overstore creates that, verifies it, restores it at boot, and explains any
      fault.
    '';
    license = with lib.licenses; [
      mit
      asl20
    ];
    maintainers = [ ];
    mainProgram = finalAttrs.pname;
    platforms = lib.platforms.linux;
  }
  // lib.optionalAttrs (manifest ? repository) { homepage = manifest.repository; };
})
