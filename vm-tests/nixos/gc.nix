# NixOS's own collection, by its timer's service and by people with root's rights, on a
# system whose store is the overlay: the running system stays.
{ prelude, ... }:
{
  name = "overstore-gc";
  nodes.machine = {
    imports = [ ./own-store.nix ];
    nix.gc = {
      automatic = true;
      options = "--delete-older-than 1d";
    };
  };
  testScript = prelude + ''
    paths = "OVERSTORE_TEST_PATHS=/etc/overstore-test/paths"
    machine.wait_for_unit("multi-user.target")
    system = machine.succeed("readlink -f /run/current-system").strip()

    def garbage():
        machine.succeed("echo garbage >/tmp/garbage")
        return machine.succeed("nix-store --add /tmp/garbage").strip()

    for command in [
        "systemctl start nix-gc.service",
        "nix-collect-garbage -d || true",
        "systemctl start nix-optimise.service",
    ]:
        path = garbage()
        machine.succeed(command)
        machine.succeed(f"test -x {system}/init && nix-store --check-validity {system}")
        # No whiteout hides anything of the lower store.
        machine.succeed('test -z "$(find /data/upper -type c)"')
    path = garbage()
    machine.succeed("systemctl start nix-gc.service")
    machine.fail(f"test -e {path}")
    lines(machine, "store_is_good system", paths)
  '';
}
