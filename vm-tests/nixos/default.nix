# The tests on NixOS, one file a behaviour. What happens in a machine is, where it
# can be, what the scenarios of ../scenarios do in Debian's.
{ pkgs }:
let
  inherit (pkgs) lib;
  test =
    file:
    pkgs.testers.runNixOSTest {
      imports = [ file ];
      _module.args = { inherit (shared) prelude; };
      defaults.imports = [ shared.machine ];
    };
  shared = import ./shared.nix { inherit pkgs; };
in
{
  nixos-boot = test ./boot.nix;
  nixos-reboot = test ./reboot.nix;
  nixos-crash = test ./crash.nix;
  nixos-collect = test ./collect.nix;
  nixos-gc = test ./gc.nix;
  nixos-nfs = test ./nfs.nix;
  nixos-per-user = test ./per-user.nix;
  nixos-switch = test ./switch.nix;
  nixos-first-switch = test ./first-switch.nix;
  nixos-etc-overlay = test ./etc-overlay.nix;
  nixos-publish = test ./publish.nix;
  nixos-refused = import ./refused.nix { inherit pkgs lib; };
}
