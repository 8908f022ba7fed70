# The system's own /nix/store from the initrd, over a read-only squashfs image;
# Nix's mount check passes after the switch of root, and users build.
{ prelude, ... }:
{
  name = "overstore-boot";
  nodes.machine.imports = [ ./own-store.nix ];
  testScript = prelude + ''
    paths = "OVERSTORE_TEST_PATHS=/etc/overstore-test/paths"
    machine.wait_for_unit("multi-user.target")
    no_ordering_cycle(machine)
    scenario(machine, "initrd/2-booted overstore-initrd-system.service", paths)
    # Nothing of the running system was copied up.
    machine.succeed("test ! -e /data/upper/$(basename $(readlink -f /run/current-system))")
  '';
}
