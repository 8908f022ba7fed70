# The keys of a publication's description, as options. Every key is here; the test tests/it/nixos.rs
# compares them with the program's.
{ lib }:
let
  inherit (lib) types;
  key = import ./key.nix { inherit lib; };
  path = key types.str;
in
{
  root = path "none: the live store is the system's own" ''
    The directory that holds the live store and its state: `real` and `state` are below it
    unless they are given.
  '';
  real = path "`\${root}/nix/store`; without `root`, the value of `store`" ''
    The live store directory.
  '';
  state = path "`\${root}/nix/var/nix`; without `root`, {file}`/nix/var/nix`" ''
    The live store's state directory, which holds its database and its roots.
  '';
  store = path "{file}`/nix/store`" ''
    The store directory, as store paths name it.
  '';
  publication = path "none: it has to be given" ''
    The directory that the generations are made in, and that consumers mount.
  '';
  schedule = key types.str "never" ''
    When generations are made: a systemd calendar event.
  '';
  include = {
    all-valid = key types.bool "`false`" ''
      Whether everything that is valid in the live store goes in. Nothing of it is ever
      freed then.
    '';
    paths = key (types.listOf types.str) "none" ''
      Paths of the live store, or links to them, which go in with all that they refer to.
    '';
    roots = key (types.listOf types.str) "none; where nothing else is given, those of the live store" ''
      Directories of roots or profiles, of which the same is done.
    '';
  };
  keep = {
    generations = key types.int "all" ''
      How many of the newest generations are not retired when a new one is made.
    '';
    younger-than = key types.str "never" ''
      Generations older than this are retired when a new one is made (`30d`).
    '';
    grace = key types.str "`7d`" ''
      How long the database and the roots of a retired generation stay.
    '';
  };
  database.use-sqlite-wal = key types.bool "`true`" ''
    Whether the live store's database uses a write-ahead log, as Nix's setting of that name.
  '';
}
