# A lower store made from closures, by `overstore publish --image`: their objects,
# the database that nixpkgs' images lack, and nothing at the top of the store
# directory that is not a store path.
#
#     pkgs.callPackage ./lower-store.nix { } {
#       storeContents = [ config.system.build.toplevel ];
#       type = "squashfs";
#     }
{
  buildPackages,
  closureInfo,
  erofs-utils,
  lib,
  # It runs where the image is made.
  overstore ? buildPackages.callPackage ../pkgs/by-name/ov/overstore/package.nix { },
  runCommand,
  squashfsTools,
}:
{
  # What is in it, with everything that it refers to.
  storeContents,
  # An image ("squashfs", "erofs"), or only the metadata as a directory ("state"),
  # for objects that are shared in another way. Below it, the state directory is
  # nix/var/nix; in an image, the store directory is nix/store.
  type ? "state",
  name ? "lower-store",
}:
runCommand "${name}-${type}"
  {
    closure = closureInfo { rootPaths = storeContents; };
    nativeBuildInputs = [
      overstore
    ]
    ++ lib.optional (type == "squashfs") squashfsTools
    ++ lib.optional (type == "erofs") erofs-utils;
  }
  ''
    overstore publish --image ${type} $out --registration $closure/registration \
      --processors $NIX_BUILD_CORES
  ''
