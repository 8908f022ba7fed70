# Of NixOS's `utils`, what the module uses.
{ lib }:
{
  escapeSystemdExecArgs = lib.concatMapStringsSep " " (
    argument: lib.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON argument)
  );
  fsNeededForBoot =
    fileSystem:
    fileSystem.neededForBoot
    || lib.elem fileSystem.mountPoint [
      "/"
      "/nix"
      "/nix/store"
      "/var"
      "/var/log"
      "/var/lib"
      "/var/lib/nixos"
      "/etc"
      "/usr"
    ];
}
