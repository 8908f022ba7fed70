# A store for each of two people, over one store that all of them read. Each has a
# daemon of its own, which nobody else can reach, a merged store that nobody else can
# enter, and an upper layer that nobody can.
{ lib, ... }:
{
  services.overstore.stores = lib.genAttrs [ "alice" "bob" ] (person: {
    serve = "own";
    user = person;
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

  nix.settings.sync-before-registering = true;
}
