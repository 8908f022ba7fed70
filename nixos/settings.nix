# The keys of the configuration file, as options. What is not given here is not
# in the file: the defaults are overstore's own. Every key is here; the test
# tests/it/nixos.rs compares them with the program's.
{ lib }:
let
  inherit (lib) mkOption types;
  key = import ./key.nix { inherit lib; };
  path = key types.str;
  # What has no default is `null` here, too: the program says that it is missing,
  # with all else that is wrong.
  required = "none: it has to be given";
in
{
  root = path "none: the store is the system's own" ''
    The directory that holds the merged store and its state: `real`, `state` and
    `log` are below it unless they are given. Leave it out for a store in
    {file}`/nix/store`.
  '';
  real = path "`\${root}/nix/store`; without `root`, the value of `store`" ''
    The merged store directory, where OverlayFS is mounted.
  '';
  state = path "`\${root}/nix/var/nix`; without `root`, {file}`/nix/var/nix`" ''
    The state directory, which holds the upper database.
  '';
  log = path "`\${root}/nix/var/log/nix`; without `root`, {file}`/nix/var/log/nix`" ''
    The directory of build logs.
  '';
  store = path "{file}`/nix/store`" ''
    The store directory, as store paths name it.
  '';
  lower-store = path "none: it has to be given, or `lower.publication`" ''
    The lower store: a path (a local store with that root), `local`, `daemon`,
    `auto`, or a store URL: `local://`, `unix://`, `local-overlay://` or
    `mounted-ssh-ng://`.
  '';
  upper-layer = path required ''
    The upper layer: the directory that takes the new store objects.
  '';
  workdir = path required ''
    OverlayFS's work directory, on the same file system as the upper layer.
  '';
  check-mount =
    key types.bool "`true`, unless a path has a character that Nix's check cannot match"
      ''
        Whether Nix checks the mount when it opens the store.
      '';
  remount-hook =
    key (types.either types.str (types.enum [ false ])) "{file}`overstore-remount`, beside the program"
      ''
        The program that Nix runs to have the merged store remounted, or `false`
        for none.
      '';
  when-incomplete =
    key
      (types.enum [
        "start"
        "fail"
      ])
      "`start`"
      ''
        Whether the store's unit counts as started or as failed where the store is
        mounted and some of its objects are missing.
      '';
  lower = {
    real = path "what Nix takes it to be" ''
      The lower store directory, where the URL does not tell.
    '';
    state = path "what Nix takes it to be" ''
      The lower store's state directory, where the URL does not tell.
    '';
    read-only = key types.bool "`false`" ''
      Whether Nix is told that the lower store is read-only: it then neither
      locks nor writes its database.
    '';
    publication = path "none" ''
      The directory of a publication, as it is mounted here, in place of
      `lower-store`: its current generation is the lower store's metadata. `real` is
      then required.
    '';
    when-replaced =
      key
        (types.enum [
          "report"
          "reconcile"
        ])
        "`report`"
        ''
          What happens where the lower store was replaced: what is missing is told,
          or the store is put right before it is mounted, where nothing is lost by that,
          as {command}`overstore reconcile` does.
        '';
  };
  mount.options = key (types.listOf types.str) "none" ''
    Further mount options of OverlayFS, each `name` or `name=value`.
  '';
  permissions.build-users-group = key types.str "`nixbld`" ''
    The group that owns the store directory if it exists, as Nix's setting of
    that name. Empty for none.
  '';
  database.use-sqlite-wal = key types.bool "`true`" ''
    Whether the upper database uses a write-ahead log, as Nix's setting of that
    name. Has to be `false` on NFS.
  '';
  daemon = {
    serve = key types.bool "`false`, unless `serve = \"system\"` of the store says so" ''
      Whether the system's own nix-daemon serves this store.
    '';
    socket =
      path "none, or {file}`/run/overstore/NAME/socket` where `serve = \"own\"` of the store says so"
        ''
          The socket of a nix-daemon of this store's own.
        '';
  };
  warm = {
    all = key types.bool "`false`" ''
      Whether the metadata of everything that is valid below is copied whenever the
      store is mounted, before anything uses it. {option}`warm` of the store does the
      same later, beside its daemon.
    '';
    paths = key (types.listOf types.str) "none" ''
      Paths of the lower store, or links to them, of whose closures it is done.
    '';
    roots = key (types.listOf types.str) "none" ''
      Directories of roots or profiles, of which it is done.
    '';
    keep = key types.bool "`false`" ''
      Whether roots keep Nix's collector from undoing it.
    '';
  };
  gc = {
    schedule = key types.str "`daily` where a limit is given, otherwise never" ''
      When the garbage of the upper layer is collected: a systemd calendar event.
    '';
    older-than = key types.str "everything" ''
      Only what came into the upper layer longer ago than this (`14d`).
    '';
    min-free = key types.str "always" ''
      Garbage is collected only when less than this is free on the upper layer's
      file system (`10G`).
    '';
    max-free = key types.str "everything goes" ''
      Until this much is free there (`50G`), the oldest goes first.
    '';
    leftovers = key types.bool "`false`" ''
      Whether objects that neither database knows are deleted, also when it is run by hand.
    '';
    optimise = key types.bool "`false`" ''
      Whether what is in both layers is removed from the upper one first, where both
      copies are equal.
    '';
  };
  refresh = {
    schedule = key types.str "never" ''
      When the store is brought to what is below: a systemd calendar event.
    '';
    optimise = key types.bool "`false`" ''
      Whether what is in both layers is removed from the upper one afterwards, where
      both copies are equal.
    '';
  };
  parameters = mkOption {
    type = types.attrsOf (
      types.oneOf [
        types.str
        types.bool
        types.int
      ]
    );
    default = { };
    example = {
      require-sigs = false;
    };
    description = ''
      Other settings of Nix's store, passed on in the store URL.
    '';
  };
}
