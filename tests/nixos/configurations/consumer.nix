# A system with a store over a publication that its network has: mounted here, both read-only.
{
  fileSystems = {
    "/mnt/store" = {
      device = "server:/srv/store";
      fsType = "nfs";
      options = [
        "ro"
        "nfsvers=4.2"
      ];
    };
    "/mnt/publications" = {
      device = "server:/srv/publications";
      fsType = "nfs";
      options = [
        "ro"
        "nfsvers=4.2"
      ];
    };
  };
  services.overstore.stores.shared = {
    serve = "own";
    settings = {
      root = "/srv/merged";
      lower = {
        publication = "/mnt/publications/main";
        real = "/mnt/store/nix/store";
      };
      upper-layer = "/srv/layers/upper";
      workdir = "/srv/layers/work";
    };
  };
  nix.settings.sync-before-registering = true;
}
