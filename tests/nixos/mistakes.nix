# A configuration for everything that nixos/checks.nix objects to, and a part of
# what it says. Each is otherwise in order.
let
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
      services.overstore.stores."a b" = store { daemon.socket = "/run/a/socket"; };
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
    says = "it would connect to itself without end";
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
      };
    };
    says = ''Set fileSystems."/nix/.ro-store".neededForBoot = true;'';
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
      nix.package = {
        type = "derivation";
        name = "lix-2.93.0";
        pname = "lix";
        version = "2.93.0";
        outPath = "/lix";
      };
    };
    says = "Lix has no local-overlay store";
  };
  old-nix = {
    configuration = {
      imports = [ (one { } { }) ];
      nix.package = {
        type = "derivation";
        name = "nix-2.18.9";
        pname = "nix";
        version = "2.18.9";
        outPath = "/nix-package";
      };
    };
    says = "it came with 2.22";
  };
  untested-nix = {
    configuration = {
      imports = [ (one { } { }) ];
      nix.package = {
        type = "derivation";
        name = "nix-2.24.15";
        pname = "nix";
        version = "2.24.15";
        outPath = "/nix-package";
      };
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
