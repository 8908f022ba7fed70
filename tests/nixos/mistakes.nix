# A configuration for everything that nixos/checks.nix objects to, and a part of
# what it says. Each is otherwise in order.
let
  # A package that is only a name.
  package =
    name: version:
    let
      it = {
        type = "derivation";
        name = "${name}-${version}";
        pname = name;
        inherit version;
        outPath = "/nix-package";
        out = it;
        meta = { };
      };
    in
    it;
  store = settings: {
    serve = "own";
    settings = {
      root = "/srv/example/merged";
      lower-store = "/srv/lower";
      upper-layer = "/srv/example/upper";
      workdir = "/srv/example/work";
    }
    // settings;
  };
  decided = {
    nix.settings.sync-before-registering = true;
  };
  # One store named "example", changed.
  one =
    change: settings: {
      imports = [ decided ];
      services.overstore.stores.example = store settings // change;
    };
  # The system's own store, from the initrd.
  system = change: {
    imports = [
      decided
      change
    ];
    boot.initrd.systemd.enable = true;
    services.overstore.stores.system = {
      initrd.enable = true;
      serve = "system";
      settings = {
        lower-store = "/nix/.ro-store?read-only=true";
        upper-layer = "/nix/.rw-store/upper";
        workdir = "/nix/.rw-store/work";
      };
    };
  };
in
{
  name = {
    configuration = {
      imports = [ decided ];
      services.overstore.stores."a b" = store { daemon.socket = "/run/overstore/a b/socket"; };
    };
    says = "a store's name becomes part of the names of units";
  };
  no-nix = {
    configuration = {
      imports = [ (one { } { }) ];
      nix.enable = false;
    };
    says = "nix.enable is false";
  };
  itself = {
    configuration = one { serve = "system"; } { lower-store = "daemon"; };
    says = "itself without end";
  };
  lower-in-upper = {
    configuration = one { } { lower-store = "/srv/example/upper/lower?read-only=true"; };
    says = "is inside the upper layer /srv/example/upper";
  };
  upper-on-nfs = {
    configuration = {
      imports = [ (one { } { }) ];
      fileSystems."/srv/example" = {
        device = "server:/export";
        fsType = "nfs4";
      };
    };
    says = "OverlayFS cannot write there";
  };
  users-without-daemon = {
    configuration = {
      imports = [
        (one {
          serve = null;
          allowedUsers = [ "alice" ];
        } { })
      ];
      nix.settings.experimental-features = [ "local-overlay-store" ];
    };
    says = "say who may use the store's daemon, and it has none";
  };
  running-store = {
    configuration = one { } { root = null; };
    says = "which the running system is in";
  };
  initrd-for-another-place = {
    configuration = one { initrd.enable = true; } { };
    says = "initrd.enable is for the system's own /nix/store";
  };
  root-without-daemon = {
    configuration = system { nix.settings.store = "local"; };
    says = "root's Nix would not ask the daemon";
  };
  registration-at-boot = {
    configuration = system {
      boot.postBootCommands = "nix-store --load-db </nix/store/nix-path-registration";
    };
    says = "boot.postBootCommands has `nix-store --load-db`";
  };
  options-of-nix-gc = {
    configuration = system { nix.gc.options = "--max-freed 1000"; };
    says = "nothing for what nix.gc.options says: --max-freed 1000";
  };
  shared-directory-of-socket = {
    configuration = one { } { daemon.socket = "/run/nix.socket"; };
    says = "/run, which has to be the store's own";
  };
  directories-of-others = {
    configuration = one { user = "alice"; } { };
    says = "so they have to be the store's own";
  };
  client-of-none = {
    configuration = {
      imports = [
        (one {
          serve = null;
          client.enable = true;
        } { })
      ];
      nix.settings.experimental-features = [ "local-overlay-store" ];
    };
    says = "sets NIX_REMOTE for a store that a daemon serves";
  };
  settings-of-no-daemon = {
    configuration = one {
      serve = "system";
      daemon.environment.TMPDIR = "/var/tmp";
    } { };
    says = "`daemon` is for a daemon of the store's own";
  };
  half-persistent = {
    configuration = {
      imports = [ (one { } { }) ];
      fileSystems = {
        "/srv/example/merged" = {
          device = "/dev/disk/by-label/data";
          fsType = "ext4";
        };
        "/srv/example/upper" = {
          device = "none";
          fsType = "tmpfs";
        };
      };
    };
    says = "only one is there after a reboot";
  };
  no-systemd-in-initrd = {
    configuration =
      { lib, ... }:
      {
        imports = [ (system { }) ];
        boot.initrd.systemd.enable = lib.mkForce false;
      };
    says = "needs systemd there";
  };
  mounted-twice = {
    configuration = system {
      fileSystems."/nix/store" = {
        device = "overlay";
        fsType = "overlay";
      };
    };
    says = "would be mounted at the same place";
  };
  system-without-daemon = {
    configuration =
      { lib, ... }:
      {
        imports = [ (system { }) ];
        services.overstore.stores.system.serve = lib.mkForce "own";
      };
    says = "has to be served by the system's nix-daemon";
  };
  warm-twice = {
    configuration = one {
      warm = {
        all = true;
        paths = [ "/run/current-system" ];
      };
    } { };
    says = "`warm.all` copies everything up";
  };
  not-needed-for-boot = {
    configuration = system {
      fileSystems."/nix/.ro-store" = {
        device = "/dev/disk/by-label/store";
        fsType = "squashfs";
        neededForBoot = false;
      };
    };
    says = ''Remove fileSystems."/nix/.ro-store".neededForBoot = false;'';
  };
  shared-upper-layer = {
    configuration = {
      imports = [ decided ];
      services.overstore.stores = {
        first = store { };
        second = store {
          root = "/srv/second/merged";
          workdir = "/srv/second/work";
        };
      };
    };
    says = "have one upper layer, /srv/example/upper";
  };
  two-of-the-system = {
    configuration = {
      imports = [ decided ];
      services.overstore.stores = {
        first = store { } // {
          serve = "system";
        };
        second =
          store {
            root = "/srv/second/merged";
            upper-layer = "/srv/second/upper";
            workdir = "/srv/second/work";
          }
          // {
            serve = "system";
          };
      };
    };
    says = "which serves one store";
  };
  lix = {
    configuration = {
      imports = [ (one { } { }) ];
      nix.package = package "lix" "2.93.0";
    };
    says = "Lix has no local-overlay store";
  };
  old-nix = {
    configuration = {
      imports = [ (one { } { }) ];
      nix.package = package "nix" "2.18.9";
    };
    says = "it came with 2.22";
  };
  untested-nix = {
    configuration = {
      imports = [ (one { } { }) ];
      nix.package = package "nix" "2.24.15";
    };
    says = "is not tested with Nix 2.24.15";
  };
  undecided = {
    configuration.services.overstore.stores.example = store { };
    says = "after a power cut";
  };
  optimise = {
    configuration = {
      imports = [ (one { } { }) ];
      nix.settings.auto-optimise-store = true;
    };
    says = "auto-optimise-store links equal files";
  };
  no-feature = {
    configuration = one { serve = null; } { };
    says = "need an experimental feature";
  };
}
