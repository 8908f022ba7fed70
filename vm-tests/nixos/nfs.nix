# A lower store on a file server, exported read-only, and two machines that build
# on top of it, each for itself.
{ prelude, ... }:
let
  consumer = {
    imports = [ ../../nixos/examples/nfs-build-worker.nix ];
    virtualisation.fileSystems."/mnt/shared-store" = {
      device = "server:/srv/lower";
      fsType = "nfs";
      options = [
        "ro"
        "nfsvers=4.2"
      ];
    };
    services.overstore.stores.builds.settings.permissions.build-users-group = "nixbld";
    users.groups.builders.members = [ "alice" ];
  };
in
{
  name = "overstore-nfs";
  nodes = {
    server = {
      services.nfs.server = {
        enable = true;
        exports = "/srv/lower *(ro,no_root_squash,no_subtree_check)";
      };
      networking.firewall.enable = false;
      systemd.tmpfiles.rules = [ "d /srv/lower 0755 root root -" ];
    };
    first = consumer;
    second = consumer;
  };
  testScript = prelude + ''
    server.start()
    server.wait_for_unit("multi-user.target")
    make_lower_store(server)
    # What Nix wants to find on a read-only store.
    server.succeed(
        "cd /srv/lower/nix; mkdir -p store/.links var/nix/temproots "
        "var/nix/profiles/per-user var/nix/gcroots/per-user"
    )
    server.succeed("cp -r /srv/lower/paths /tmp/paths; systemctl restart nfs-server.service")
    named = server.succeed("cat /srv/lower/paths")
    added: dict[str, str] = {}
    for machine in [first, second]:
        machine.start()
        machine.wait_for_unit("multi-user.target")
        no_ordering_cycle(machine)
        machine.succeed(f"cat >/tmp/paths <<'END'\n{named}END")
        machine.wait_for_unit("overstore-builds.service")
        added[machine.name] = lines(machine, """
          store=$(overstore url --client builds)
          as_user alice nix-store --store "$store" --check-validity "$lower_app"
          fails as_user bob nix-store --store "$store" --check-validity "$lower_app" >&2
          hostname >/tmp/object
          as_user alice nix-store --store "$store" --add /tmp/object
        """, "OVERSTORE_TEST_PATHS=/tmp/paths").splitlines()[-1]
    # What one adds, the other does not see.
    first.fail("test -e /var/lib/builds" + added["second"])
    second.fail("test -e /var/lib/builds" + added["first"])
  '';
}
