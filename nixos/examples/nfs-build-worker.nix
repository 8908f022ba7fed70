# A build worker over a big store that a file server exports read-only. What the
# worker builds stays on its own disk; any number of workers share the export.
{
  fileSystems."/mnt/shared-store" = {
    device = "store.example:/export/store";
    fsType = "nfs";
    options = [
      "ro"
      "nfsvers=4.2"
    ];
  };

  services.overstore.stores.builds = {
    serve = "own";
    allowedGroups = [ "builders" ];
    allowedUsers = [ ];
    settings = {
      root = "/var/lib/builds";
      lower-store = "/mnt/shared-store";
      # The export has to hold what Nix wants to find on a read-only store:
      # `overstore check builds` names what is missing.
      lower.read-only = true;
      upper-layer = "/var/lib/builds-layers/upper";
      workdir = "/var/lib/builds-layers/work";
    };
    # What every build needs, at once and not path by path.
    warm.roots = [ "/mnt/shared-store/nix/var/nix/gcroots" ];
  };

  nix.settings.sync-before-registering = true;
}
