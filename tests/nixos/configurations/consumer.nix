# A system with a store over a publication, which it follows: both are mounted here, read-only.
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
      refresh = {
        schedule = "hourly";
        optimise = true;
      };
    };
  };
  nix.settings.sync-before-registering = true;
}
