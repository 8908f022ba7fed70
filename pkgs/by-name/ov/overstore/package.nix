# overstore, as `make install` installs it. The place and the content of this file are as nixpkgs wants
# them: there, `source` is what fetchFromGitHub fetches for the tag "v${finalAttrs.version}", and its
# `cargoHash`.
{
  lib,
  buildPackages,
  nix-update-script,
  rustPlatform,
  stdenv,
  versionCheckHook,

  source ? import ./source.nix { inherit lib; },
  # The tests in virtual machines, where there are some: nixosTests.overstore.
  machineTests ? { },
}:
let
  # The program writes its own manual pages and completions, where it can be run.
  canExecute = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
in
rustPlatform.buildRustPackage (finalAttrs: {
  pname = "overstore";
  version = "0.1.0";

  __structuredAttrs = true;
  strictDeps = true;

  inherit (source) src cargoLock;

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
    description = "Sets up, checks and looks after Nix's local-overlay stores";
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
    mainProgram = "overstore";
    platforms = lib.platforms.linux;
  };
})
