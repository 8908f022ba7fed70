# A lower store made from closures: their objects, the database that nixpkgs'
# images lack, and nothing at the top of the store directory that is not a store
# path.
#
#     pkgs.callPackage ./lower-store.nix { } {
#       storeContents = [ config.system.build.toplevel ];
#       type = "squashfs";
#     }
{
  closureInfo,
  erofs-utils,
  lib,
  nix,
  runCommand,
  sqlite,
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
let
  make = {
    state = "cp -R root $out";
    squashfs = "mksquashfs root $out -quiet -no-progress -all-root -b 1048576 -comp zstd -processors $NIX_BUILD_CORES";
    erofs = "mkfs.erofs --quiet --all-root -zlz4 -T1 $out root";
  };
in
runCommand "${name}-${type}"
  {
    closure = closureInfo { rootPaths = storeContents; };
    nativeBuildInputs = [
      nix
      sqlite
    ]
    ++ lib.optional (type == "squashfs") squashfsTools
    ++ lib.optional (type == "erofs") erofs-utils;
  }
  ''
    mkdir -p root/nix/store
    ${lib.optionalString (type != "state") ''
      xargs cp -a --reflink=auto -t root/nix/store <$closure/store-paths
    ''}
    sh ${./lower-store.sh} $closure/registration root
    ${make.${type}}
  ''
