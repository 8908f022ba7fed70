# Who may use which store: directories that only some can enter, the daemon's
# allowed users, and shells that use a store by default.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.overstore;
  stores = cfg.enabled;
  own = lib.filterAttrs (_: store: store.servedBy == "own") stores;
  system = lib.filterAttrs (_: store: store.servedBy == "system") stores;
  ofOneUser = lib.filterAttrs (
    _: store: store.user != null && store.settings.root != null && store.settings.upper-layer != null
  ) stores;
  # Checks say who cannot have this.
  clients = lib.filterAttrs (_: store: store.client.enable && store.servedBy != null) stores;

  everybody = store: lib.elem "*" store.allowedUsers;
  people = store: store.allowedUsers ++ map (group: "@${group}") store.allowedGroups;

  # A directory of root's that only some can enter.
  closed =
    directory: entries:
    [ "d ${directory} 0700 root root -" ]
    ++ lib.optional (entries != [ ]) "a ${directory} - - - - ${lib.concatStringsSep "," entries}";
  enters = kind: name: "${kind}:${name}:x";

  # Asked of the program when the system is built.
  url =
    name: store:
    pkgs.runCommand "overstore-client-${name}" { preferLocalBuild = true; } ''
      ${cfg.buildProgram} url --client ${store.file} >$out
    '';
  socketOf =
    store:
    if store.servedBy == "own" then
      store.settings.daemon.socket
    else
      "/nix/var/nix/daemon-socket/socket";
  # Whoever may use a daemon of the store's own can enter the directory of its socket,
  # and that is all there is to ask. The system's daemon is everybody's.
  may =
    store:
    if store.servedBy == "own" || everybody store then
      ":"
    else
      "id -Gn | tr ' ' '\\n' | grep -qxF ${
        lib.escapeShellArgs (lib.concatMap (group: [ "-e" group ]) store.allowedGroups)
      } || id -un | grep -qxF ${lib.escapeShellArgs (lib.concatMap (user: [ "-e" user ]) store.allowedUsers)}";
in
{
  config = lib.mkIf (stores != { }) {
    systemd.tmpfiles.rules = lib.concatLists (
      lib.mapAttrsToList (
        _: store:
        let
          directory = dirOf store.settings.daemon.socket;
        in
        if everybody store then
          [ "d ${directory} 0755 root root -" ]
        else
          closed directory (map (enters "u") store.allowedUsers ++ map (enters "g") store.allowedGroups)
      ) own
      ++ lib.mapAttrsToList (
        _: store:
        closed store.settings.root [ (enters "u" store.user) ] ++ closed (dirOf store.settings.upper-layer) [ ]
      ) ofOneUser
    );

    nix.settings = lib.mkMerge (
      lib.mapAttrsToList (
        _: store: lib.mkIf (!everybody store) { allowed-users = people store; }
      ) system
    );

    environment.extraInit = lib.concatStrings (
      lib.mapAttrsToList (name: store: ''
        if [ -z "''${NIX_REMOTE-}" ] && [ "$(id -u)" != 0 ] && [ -w ${socketOf store} ] && { ${may store}; }; then
            read -r NIX_REMOTE <${url name store} && export NIX_REMOTE
        fi
      '') clients
    );
  };
}
