# A store for each of two people, over one store that all of them read. Each has a
# daemon of its own, which nobody else can reach, and an upper layer that nobody
# else can enter.
{ lib, ... }:
let
  people = [
    "alice"
    "bob"
  ];
in
{
  services.overstore.stores = lib.genAttrs people (person: {
    serve = "own";
    allowedUsers = [ person ];
    settings = {
      root = "/srv/stores/${person}";
      # Published with `nix copy --to /srv/shared`, by somebody who runs
      # `pragma wal_checkpoint(truncate)` on its database afterwards.
      lower-store = "/srv/shared";
      lower.read-only = true;
      upper-layer = "/srv/layers/${person}/upper";
      workdir = "/srv/layers/${person}/work";
    };
  });

  # The administrator's directories, which only their person may enter.
  systemd.tmpfiles.rules = lib.concatMap (person: [
    "d /srv/stores/${person} 0750 root ${person} -"
    "d /srv/layers/${person} 0700 root root -"
  ]) people;

  nix.settings.sync-before-registering = true;
}
