# The test scripts of the virtual machines, with the names of their machines. Needs no nixpkgs: nothing
# of a machine is looked at.
let
  pkgs = {
    lib = { };
    runCommand =
      _: _: _:
      null;
    testers.runNixOSTest = test: test;
  };
  tests = import ../../vm-tests/nixos { inherit pkgs; };
  machines = removeAttrs tests (
    builtins.filter (name: tests.${name} == null) (builtins.attrNames tests)
  );
in
builtins.mapAttrs (
  _: test:
  let
    inherit (import (builtins.head test.imports) test._module.args) nodes testScript;
  in
  {
    nodes = builtins.attrNames nodes;
    script = builtins.unsafeDiscardStringContext testScript;
  }
) machines
