# A store with a daemon of its own, with settings of its own, which its users' shells use.
{
  services.overstore.stores.shared = {
    serve = "own";
    allowedUsers = [ "alice" ];
    client.enable = true;
    daemon = {
      environment.TMPDIR = "/var/tmp";
      serviceConfig = {
        CPUSchedulingPolicy = "idle";
        EnvironmentFile = [ "/etc/nix/proxy.env" ];
        MemoryMax = "8G";
      };
    };
    settings = {
      root = "/srv/merged";
      lower-store = "/srv/lower";
      lower.read-only = true;
      upper-layer = "/srv/layers/upper";
      workdir = "/srv/layers/work";
      gc = {
        older-than = "14d";
        min-free = "10G";
        max-free = "50G";
      };
    };
  };
  nix.settings.sync-before-registering = true;
}
