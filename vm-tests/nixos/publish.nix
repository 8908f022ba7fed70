# A live store, generations of it, and a store over one of them, which goes on to the next while it is
# in use.
{ prelude, ... }:
{
  name = "overstore-publish";
  nodes.machine =
    { lib, ... }:
    {
      services.overstore.publications.main.settings = {
        root = "/srv/live";
        publication = "/srv/publications/main";
        schedule = "daily";
        include.all-valid = true;
      };
      services.overstore.stores.example = {
        serve = "own";
        settings = {
          root = "/srv/merged";
          lower = {
            publication = "/srv/publications/main";
            real = "/srv/live/nix/store";
          };
          upper-layer = "/srv/layers/upper";
          workdir = "/srv/layers/work";
          refresh.schedule = "daily";
        };
      };
      # The live store is made by the test.
      systemd.services.overstore-example.wantedBy = lib.mkForce [ ];
    };
  testScript = prelude + ''
    machine.wait_for_unit("multi-user.target")
    machine.succeed("systemctl is-active overstore-publish@main.timer")
    make_lower_store(machine, "/srv/live")
    machine.succeed("systemctl start overstore-publish@main.service")
    machine.succeed("systemctl start overstore-example.service")
    lines(machine, """
      store=$(overstore url --client example)
      nix-store --store "$store" --check-validity "$lower_app"
      echo object >/tmp/object
      nix-store --store "$store" --add /tmp/object
      overstore check --lower example
    """, "OVERSTORE_TEST_PATHS=/srv/live/paths")
    # What is added to the live store is not in the generation that the consumer has, and in
    # the next, which the consumer goes on to when it is told to.
    machine.succeed("echo later >/tmp/later; NIX_REMOTE= nix-store --store /srv/live --add /tmp/later >/tmp/path")
    machine.succeed("systemctl start overstore-publish@main.service")
    machine.succeed("test $(readlink /srv/publications/main/current) = generations/2")
    later = 'nix-store --store "$(overstore url --client example)" --check-validity "$(cat /tmp/path)"'
    machine.fail(later)
    daemon = machine.succeed("systemctl show --property=InvocationID nix-daemon@example.service")
    machine.succeed("systemctl is-active overstore-refresh@example.timer")
    machine.succeed("systemctl start overstore-refresh@example.service")
    machine.succeed(later)
    assert machine.succeed("systemctl show --property=InvocationID nix-daemon@example.service") == daemon
    machine.succeed("overstore check --lower example")
  '';
}
