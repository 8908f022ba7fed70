# Collecting garbage takes what is above and has no root, and nothing else.
{ prelude, ... }:
{
  name = "overstore-collect";
  nodes.machine.imports = [ ./own-store.nix ];
  testScript = prelude + ''
    paths = "OVERSTORE_TEST_PATHS=/etc/overstore-test/paths"
    machine.wait_for_unit("multi-user.target")
    lines(machine, 'build alice onTop >"$STATE/on-top"', paths)
    scenario(machine, "whole-store/4-collect", paths)
  '';
}
