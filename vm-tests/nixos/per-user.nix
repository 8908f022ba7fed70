# A store for each of two people, who cannot see each other's.
{ prelude, ... }:
{
  name = "overstore-per-user";
  nodes.machine =
    { lib, ... }:
    {
      imports = [ ../../nixos/examples/per-user-stores.nix ];
      # The lower store is made by the test.
      systemd.services = lib.genAttrs [ "overstore-alice" "overstore-bob" ] (_: {
        wantedBy = lib.mkForce [ ];
      });
    };
  testScript = prelude + ''
    machine.wait_for_unit("multi-user.target")
    make_lower_store(machine, "/srv/shared")
    lines(machine, """
      for user in alice bob; do
          other=$([ "$user" = alice ] && echo bob || echo alice)
          store=$(overstore url --client "$user")
          as_user "$user" sh -c "echo of $user >/tmp/$user"
          path=$(as_user "$user" nix-store --store "$store" --add "/tmp/$user")
          is_active "overstore-$user.service"
          as_user "$user" cat "/srv/stores/$user$path"
          fails as_user "$other" cat "/srv/stores/$user$path"
          fails as_user "$other" nix-store --store "$store" --check-validity "$path"
          as_user "$user" nix-store --store "$store" --check-validity "$lower_app"
          overstore check "$user"
      done
    """, "OVERSTORE_TEST_PATHS=/srv/shared/paths")
  '';
}
