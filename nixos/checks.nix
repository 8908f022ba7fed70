# What is wrong, or will hurt, before anything is built. Only what the system's
# other options tell: a description by itself is checked by the program.
{
  config,
  lib,
  utils,
  ...
}:
let
  cfg = config.services.overstore;
  stores = cfg.enabled;
  names = lib.attrNames stores;
  nix = config.nix;
  settings = nix.settings;

  inherit (lib)
    any
    concatMap
    concatMapStringsSep
    elem
    filter
    hasPrefix
    optional
    removeSuffix
    ;

  option = name: "services.overstore.stores.${name}";
  setTo = name: value: (settings.${name} or null) == value;
  # A list, or words in a string, and what was appended to nix.conf.
  hasFeature =
    feature:
    any
      (
        name:
        elem feature (
          let
            value = settings.${name} or [ ];
          in
          if lib.isList value then value else lib.splitString " " value
        )
      )
      [
        "experimental-features"
        "extra-experimental-features"
      ]
    || lib.hasInfix feature (nix.extraOptions or "");

  # Whether a path is a directory or in it.
  isBelow = directory: path: path == directory || hasPrefix "${removeSuffix "/" directory}/" path;
  # The mount point of the file system that a path is on.
  fileSystemOf =
    path:
    let
      holding = filter (point: isBelow point path) (lib.attrNames config.fileSystems);
      deepest = lib.foldl' (a: b: if lib.stringLength b > lib.stringLength a then b else a) "" holding;
    in
    if holding == [ ] then null else config.fileSystems.${deepest} // { mountPoint = deepest; };

  # The lower store's directory, where the description says it as a plain path.
  lowerOf = store: if store.lowerPaths == [ ] then null else lib.head store.lowerPaths;

  # Whether a directory is named as the store is, below another that is not the root
  # directory: only then is it the store's own, and its mode ours to set.
  isOwn = name: directory: baseNameOf directory == name && dirOf directory != "/";
  # Whether what is on a file system is gone after a reboot; unknown for no file system.
  isLost = on: if on == null then null else elem (on.fsType or "auto") [ "tmpfs" "ramfs" ];

  # What a store wants to have for itself.
  belongings = store: {
    "upper layer" = store.settings.upper-layer;
    "work directory" = store.settings.workdir;
    "merged store directory" = store.real;
    "daemon's socket" = store.settings.daemon.socket;
  };
  pairs = lib.concatLists (
    lib.imap0 (
      index: first: map (second: { inherit first second; }) (lib.drop (index + 1) names)
    ) names
  );
  shared = concatMap (
    { first, second }:
    let
      a = belongings stores.${first};
      b = belongings stores.${second};
    in
    concatMap (
      part:
      optional (a.${part} != null && a.${part} == b.${part}) {
        assertion = false;
        message = ''
          ${option first} and ${option second} have one ${part}, ${a.${part}}.
          Give each store its own: what two overlays write to at once is lost.'';
      }
    ) (lib.attrNames a)
  ) pairs;

  ofSystem = filter (name: stores.${name}.servedBy == "system") names;
  # The file systems that a part of the system's own store is on have to be there in
  # the initrd. initrd.nix sees to that, unless somebody says otherwise.
  neededForBoot =
    name: store:
    let
      paths = filter (path: path != null) (
        [
          store.settings.upper-layer
          store.settings.workdir
          store.state
        ]
        ++ store.lowerPaths
      );
      on = filter (one: one != null && !(utils.fsNeededForBoot one)) (map fileSystemOf paths);
    in
    map (point: {
      assertion = false;
      message = ''
        ${option name}: a part of it is on ${point}, which is not to be mounted in the initrd.
        Remove fileSystems."${point}".neededForBoot = false;, or set it to true.'';
    }) (lib.unique (map (one: one.mountPoint) on));

  daemonSocket = "/nix/var/nix/daemon-socket/socket";
  itsOwnLower =
    store:
    let
      url = store.settings.lower-store;
    in
    url != null
    && (
      store.servedBy == "system"
      && (
        url == "daemon"
        || url == "unix://"
        || hasPrefix "unix://?" url
        || hasPrefix "unix://${daemonSocket}" url
      )
      || store.servedBy == "own" && hasPrefix "unix://${store.settings.daemon.socket}" url
    );

  ofStore =
    name: store:
    let
      upper = store.settings.upper-layer;
      lower = lowerOf store;
      upperOn = if upper == null then null else fileSystemOf upper;
      isSystems = store.initrd.enable && store.real == "/nix/store";
    in
    [
      {
        assertion = builtins.match "[A-Za-z0-9_][A-Za-z0-9_.-]*" name != null;
        message = ''
          ${option name}: a store's name becomes part of the names of units and files.
          Use letters, digits, `_`, `-` and `.`, and begin with a letter or a digit.'';
      }
      {
        assertion = store.servedBy == null || nix.enable;
        message = ''
          ${option name} is to be served by a nix-daemon, but nix.enable is false.
          Set nix.enable = true; or leave `serve` out.'';
      }
      {
        assertion = !itsOwnLower store;
        message = ''
          ${option name}: the lower store is the daemon that serves this store; it would connect to
          itself without end.
          Name the store itself as `lower-store` ("local?root=..." or a path), or serve it with serve = "own";'';
      }
      {
        assertion = upper == null || lower == null || !(isBelow upper lower);
        message = ''
          ${option name}: the lower store directory ${toString lower} is inside the upper layer ${toString upper}.
          Choose an `upper-layer` beside the lower store: nothing may change in the lower one
          through the upper one.'';
      }
      {
        assertion =
          upperOn == null
          || !(elem (upperOn.fsType or "auto") [
            "nfs"
            "nfs4"
            "vfat"
            "9p"
            "virtiofs"
          ]);
        message = ''
          ${option name}: the upper layer is on ${upperOn.mountPoint or ""}, which is ${upperOn.fsType or ""}.
          OverlayFS cannot write there: put `upper-layer` and `workdir` on a local file system such
          as ext4, xfs, btrfs or tmpfs.'';
      }
      {
        assertion = store.servedBy != null || (elem "*" store.allowedUsers && store.allowedGroups == [ ]);
        message = ''
          ${option name}: `allowedUsers` and `allowedGroups` say who may use the store's daemon, and it has none.
          Set serve = "own"; or serve = "system";, or leave them out.'';
      }
      {
        assertion = store.real != "/nix/store" || store.initrd.enable;
        message = ''
          ${option name}: its merged store directory is /nix/store, which the running system is in.
          Set initrd.enable = true; so that it is mounted before the system starts, or give
          `settings.root` for a store beside the system's.'';
      }
      {
        assertion = store.real == "/nix/store" || !store.initrd.enable;
        message = ''
          ${option name}: its merged store directory is ${store.real}, and initrd.enable is for the system's
          own /nix/store.
          Leave `initrd.enable` out, or `settings.root` and `settings.real`.'';
      }
      {
        assertion = !isSystems || config.boot.initrd.systemd.enable;
        message = ''
          ${option name}: a store that is mounted in the initrd needs systemd there.
          Set boot.initrd.systemd.enable = true;'';
      }
      {
        assertion = !isSystems || !(config.fileSystems ? ${store.real});
        message = ''
          ${option name}: fileSystems."${store.real}" would be mounted at the same place.
          Remove it: overstore mounts the merged store.'';
      }
      {
        assertion = !isSystems || store.servedBy == "system";
        message = ''
          ${option name}: the system's own /nix/store has to be served by the system's nix-daemon,
          which otherwise knows nothing of the lower store.
          Set serve = "system";'';
      }
      {
        assertion = !isSystems || setTo "store" "daemon";
        message = ''
          ${option name}: with nix.settings.store = "${toString settings.store or ""}";,
          root's Nix would not ask the daemon. It would take the upper layer for all of the system's
          store, and its collector would delete the rest.
          Remove that setting: the module sets it to "daemon". For one command, use `--store`.'';
      }
      {
        assertion = !isSystems || !(lib.hasInfix "--load-db" config.boot.postBootCommands);
        message = ''
          ${option name}: boot.postBootCommands has `nix-store --load-db`, which cannot write to the system's
          database, and would fill it with what the lower store's has.
          Set boot.postBootCommands = lib.mkForce "";, with whatever else it has to do.'';
      }
      {
        assertion =
          !isSystems
          || builtins.match " *((-d|--delete-old|--delete-older-than +[0-9]+d) *)*" nix.gc.options != null;
        message = ''
          ${option name}: nix-gc.service is done by `overstore gc` for the system's own store, which has
          nothing for what nix.gc.options says: ${nix.gc.options}
          Set nix.gc.options to "", "--delete-old", or "--delete-older-than" with a number of days.'';
      }
      {
        assertion = store.servedBy != "own" || isOwn name (dirOf store.settings.daemon.socket);
        message = ''
          ${option name}: who may use the store is decided by who may enter the directory of its socket,
          ${dirOf store.settings.daemon.socket}, which has to be the store's own.
          Set settings.daemon.socket = "/run/overstore/${name}/socket";, or name a directory "${name}".'';
      }
      {
        assertion =
          store.user == null
          || store.settings.root != null
          && isOwn name store.settings.root
          && upper != null
          && isOwn name (dirOf upper);
        message = ''
          ${option name}: for `user`, the directories of the merged store and of the layers are made, and closed
          to everybody else, so they have to be the store's own.
          For example, set settings.root = "/srv/stores/${name}"; and
          settings.upper-layer = "/srv/layers/${name}/upper";'';
      }
      {
        assertion = !store.client.enable || store.servedBy != null && !(settings ? store);
        message = ''
          ${option name}: `client.enable` sets NIX_REMOTE for a store that a daemon serves, and
          nix.settings.store, which a store at /nix/store sets, too, wins over it.
          Set serve = "own";, or leave `client.enable` out and name the store with `--store`.'';
      }
      {
        assertion =
          store.servedBy == "own" || store.daemon.environment == { } && store.daemon.serviceConfig == { };
        message = ''
          ${option name}: `daemon` is for a daemon of the store's own, and it has none.
          Set serve = "own";, or use systemd.services.nix-daemon for the system's daemon.'';
      }
      {
        assertion =
          let
            layer = isLost upperOn;
            state = isLost (fileSystemOf store.state);
          in
          layer == null || state == null || layer == state;
        message = ''
          ${option name}: of the upper layer ${toString upper} and the state directory ${store.state},
          which knows what is in it, only one is there after a reboot.
          Have both on file systems that stay, or both on a tmpfs: set `settings.upper-layer`, or `settings.state`.'';
      }
      {
        assertion = !(store.warm.all && (store.warm.paths != [ ] || store.warm.roots != [ ]));
        message = ''
          ${option name}: `warm.all` copies everything up.
          Leave `warm.paths` and `warm.roots` out, or `warm.all`.'';
      }
    ]
    ++ lib.optionals isSystems (neededForBoot name store);

  version = lib.getVersion nix.package;
  ofNix = [
    {
      assertion = lib.getName nix.package != "lix";
      message = ''
        services.overstore: Lix has no local-overlay store.
        Set nix.package = pkgs.nixVersions.latest; or another Nix.'';
    }
    {
      assertion = lib.versionAtLeast version "2.22";
      message = ''
        services.overstore: Nix ${version} has no local-overlay store; it came with 2.22.
        Set nix.package = pkgs.nixVersions.latest;'';
    }
    {
      assertion = lib.length ofSystem <= 1;
      message = ''
        ${concatMapStringsSep ", " option ofSystem} are all to be served by the system's
        nix-daemon, which serves one store.
        Leave one with serve = "system"; and give the others serve = "own";'';
    }
  ];

  isServed = any (store: store.servedBy != null) (lib.attrValues stores);
  byHand = filter (name: stores.${name}.servedBy == null) names;
in
{
  assertions = lib.mkIf (stores != { }) (
    shared ++ concatMap (name: ofStore name stores.${name}) names ++ lib.optionals nix.enable ofNix
  );

  warnings = lib.mkIf (stores != { } && nix.enable) (
    optional (lib.versionAtLeast version "2.22" && lib.versionOlder version "2.26") ''
      services.overstore: overstore is not tested with Nix ${version}.
      Set nix.package to Nix 2.26 or later.''
    ++ optional (isServed && !(settings ? sync-before-registering)) ''
      services.overstore: after a power cut, Nix's database may name objects whose files are empty.
      Set nix.settings.sync-before-registering = true;, or = false; where a store need not survive one.''
    ++ optional (isServed && setTo "auto-optimise-store" true) ''
      services.overstore: nix.settings.auto-optimise-store links equal files while objects are
      added; in a local-overlay store that copies files of the lower store up.
      Set it to false; `overstore optimise` removes from the upper layer what the lower store has, too.''
    ++ map (name: ''
      ${option name} is served by no daemon, and its users need an experimental feature.
      Set nix.settings.experimental-features = [ "local-overlay-store" "read-only-local-store" ];,
      or serve = "own";'') (
      filter (_: !(hasFeature "local-overlay-store")) byHand
    )
  );
}
