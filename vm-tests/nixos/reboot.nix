# Upper objects and their metadata are there again after each reboot.
{ prelude, ... }:
{
  name = "overstore-reboot";
  nodes.machine.imports = [ ./own-store.nix ];
  testScript = prelude + ''
    paths = "OVERSTORE_TEST_PATHS=/etc/overstore-test/paths"
    # QEMU ends at a reboot unless it is told not to.
    machine.start(allow_reboot=True)
    machine.wait_for_unit("multi-user.target")
    lines(machine, """
      build alice onTop >"$STATE/built"
      nix-store --query --hash "$(cat "$STATE/built")" >"$STATE/hash"
      nix-store --add-root "$STATE/root" --realise "$(cat "$STATE/built")"
    """, paths)
    for _ in range(2):
        machine.reboot()
        machine.wait_for_unit("multi-user.target")
        no_ordering_cycle(machine)
        scenario(machine, "reboot/2-again", paths)
  '';
}
