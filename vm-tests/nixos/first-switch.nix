# A system on an ordinary store, and a configuration with the overlay at /nix/store:
# switching to it is refused, whoever does it all the same gets nothing mounted, and
# the system goes on.
{ prelude, ... }:
{
  name = "overstore-first-switch";
  nodes.machine =
    { lib, ... }:
    {
      specialisation.overlay.configuration = {
        boot.initrd.systemd.enable = true;
        boot.postBootCommands = lib.mkForce "";
        # In place of the virtual machine's own overlay.
        virtualisation.fileSystems."/nix/store".enable = lib.mkForce false;
        services.overstore.stores.system = {
          initrd.enable = true;
          serve = "system";
          settings = {
            lower-store = "/nix/.ro-store";
            lower.read-only = true;
            upper-layer = "/var/lib/layers/upper";
            workdir = "/var/lib/layers/work";
          };
        };
      };
    };
  testScript = prelude + ''
    machine.wait_for_unit("multi-user.target")
    system = machine.succeed("readlink -f /run/current-system").strip()
    switch = f"{system}/specialisation/overlay/bin/switch-to-configuration"
    mounts = machine.succeed("grep ' /nix/store ' /proc/self/mounts")

    for action in ["switch", "test"]:
        said = machine.fail(f"{switch} {action} 2>&1")
        assert "nixos-rebuild boot" in said, said
    machine.succeed(f"{switch} dry-activate >&2")

    machine.succeed(f"NIXOS_NO_CHECK=1 {switch} test >&2 || true")
    assert machine.succeed("grep ' /nix/store ' /proc/self/mounts") == mounts
    machine.wait_for_unit("overstore-system.service")
    machine.succeed("systemctl restart nix-daemon.service")
    machine.succeed("echo object >/tmp/object; nix-store --add /tmp/object")
    machine.succeed(f"{system}/bin/switch-to-configuration test >&2")
  '';
}
