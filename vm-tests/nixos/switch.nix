# Switching to a changed configuration and back without a reboot: the store is
# stopped as it was described and started as it is described, and what was in each
# upper layer is still there.
{ prelude, ... }:
{
  name = "overstore-switch";
  nodes.machine =
    { config, lib, ... }:
    {
      services.overstore.stores.example = {
        serve = "own";
        settings = {
          root = "/srv/merged";
          lower-store = "/srv/lower";
          lower.read-only = true;
          upper-layer = lib.mkDefault "/srv/first/upper";
          workdir = lib.mkDefault "/srv/first/work";
          state = lib.mkDefault "/srv/first/state";
        };
      };
      # The lower store is made by the test. Where there is no such store there is no such unit.
      systemd.services = lib.mkIf config.services.overstore.stores.example.enable {
        overstore-example.wantedBy = lib.mkForce [ ];
      };

      specialisation = {
        changed.configuration.services.overstore.stores.example.settings = {
          upper-layer = "/srv/second/upper";
          workdir = "/srv/second/work";
          state = "/srv/second/state";
        };
        removed.configuration.services.overstore.stores.example.enable = false;
      };
    };
  testScript = prelude + ''
    machine.wait_for_unit("multi-user.target")
    make_lower_store(machine)
    system = machine.succeed("readlink -f /run/current-system").strip()

    def switch(name):
        where = f"{system}/specialisation/{name}" if name else system
        machine.succeed(f"{where}/bin/switch-to-configuration test >&2")

    def add(text):
        machine.succeed(f"echo {text} >/tmp/object")
        store = "$(overstore url --client example)"
        return machine.succeed(f'nix-store --store "{store}" --add /tmp/object').strip()

    first = add("first")
    machine.succeed(f"test -e /srv/merged{first} && test -e /srv/first/upper/$(basename {first})")

    switch("changed")
    second = add("second")
    machine.succeed(f"test -e /srv/merged{second} && test ! -e /srv/merged{first}")
    machine.succeed(f"test -e /srv/second/upper/$(basename {second})")
    machine.succeed("overstore check example")

    switch("")
    add("first")
    machine.succeed(f"test -e /srv/merged{first} && test ! -e /srv/merged{second}")

    switch("removed")
    machine.fail("mountpoint -q /srv/merged/nix/store")
    machine.succeed(f"test -e /srv/first/upper/$(basename {first})")
  '';
}
