# A power cut in the middle of a build: the machine comes up by itself, and has
# what was reported before.
{ prelude, ... }:
{
  name = "overstore-crash";
  nodes.machine.imports = [ ./own-store.nix ];
  testScript = prelude + ''
    paths = "OVERSTORE_TEST_PATHS=/etc/overstore-test/paths"
    machine.wait_for_unit("multi-user.target")
    lines(machine, """
      echo before >/tmp/before
      echo "done $(nix-store --add /tmp/before)" >"$OVERSTORE_TEST_REPORTED"
      sync
      (build alice slow --argstr stop 12 >/dev/null 2>&1 &)
      wait_until sh -c "find /nix/store -path '*-upper-slow/12' | grep ."
    """, paths)
    machine.crash()
    machine.start()
    machine.wait_for_unit("multi-user.target")
    no_ordering_cycle(machine)
    scenario(machine, "power-cut/3-recovered", paths)
  '';
}
