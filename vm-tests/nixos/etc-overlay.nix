# The system's own store where /etc is an overlay, too: parts of what the initrd mounts
# are in the store then.
{ prelude, ... }:
{
  name = "overstore-etc-overlay";
  nodes.machine = {
    imports = [ ./own-store.nix ];
    system.etc.overlay.enable = true;
    services.userborn.enable = true;
  };
  testScript = prelude + ''
    paths = "OVERSTORE_TEST_PATHS=/etc/overstore-test/paths"
    machine.wait_for_unit("multi-user.target")
    no_ordering_cycle(machine)
    machine.succeed("findmnt --noheadings --types overlay /etc")
    scenario(machine, "initrd/2-booted overstore-initrd-system.service", paths)
  '';
}
