# The system's own store, in a system that has settings of its own for its daemon, and collects and
# optimises by itself.
{
  imports = [ ../../../nixos/examples/netboot.nix ];
  services.overstore.stores.system.settings.gc.older-than = "14d";
  nix.gc = {
    automatic = true;
    options = "--delete-older-than 14d";
  };
  systemd.services.nix-daemon = {
    environment.TMPDIR = "/var/tmp";
    serviceConfig.EnvironmentFile = [ "/etc/nix/proxy.env" ];
  };
}
