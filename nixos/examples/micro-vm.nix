# The guest's side of a virtual machine that runs from its host's /nix/store, and can
# build and install on top of it. The host's side is micro-vm-host.nix.
{
  services.overstore.guest = {
    enable = true;
    layers = "/dev/disk/by-label/nix";
  };
  networking.hostName = "guest";
}
