#!/bin/sh
# Makes the metadata of a lower store that will only be read.
#
#     lower-store.sh REGISTRATION ROOT
#
# REGISTRATION is what `nix-store --dump-db` prints, and what nixpkgs puts into its
# images as nix-path-registration; the objects are in ROOT/nix/store. The same
# registration makes the same database.
set -eu
registration=$1
mkdir -p "$2/nix/store"
# A store's root has to be an absolute path.
root=$(cd "$2" && pwd)
state=$root/nix/var/nix

nix-store --store "local?root=$root" --load-db <"$registration"

# Who reads it sees no write-ahead log, so nothing may be left in one.
sqlite3 "$state/db/db.sqlite" \
    'update ValidPaths set registrationTime = 1; vacuum; pragma wal_checkpoint(truncate);' >/dev/null

# Space for when a disk is full; nothing is ever written here.
rm -f "$state/db/reserved" "$state/db/db.sqlite-wal" "$state/db/db.sqlite-shm"
find "$state/temproots" -type f -delete

# What Nix wants to find, even if it is empty.
mkdir -p "$root/nix/store/.links" "$state/gcroots/per-user" "$state/profiles/per-user" "$state/temproots"

# Names at the top that are no store paths stop Nix's collector.
for path in "$root"/nix/store/*; do
    case ${path##*/} in
    ????????????????????????????????-*) ;;
    '*') ;;
    *)
        echo "lower-store.sh: $path is no store path: leave it out" >&2
        exit 1
        ;;
    esac
done
