# A live store on a disk of its own, and its publication.
# shellcheck shell=sh

LIVE=/data/live
PUBLICATION=/data/publications/main

# Nix with the live store, by itself.
with_live() { NIX_REMOTE='' NIX_CONFIG='build-users-group =' "$@" --store "local?root=$LIVE"; }

describe_publication() {
    mkdir -p /etc/overstore/publications
    cat >/etc/overstore/publications/main.toml <<END
root = "$LIVE"
publication = "$PUBLICATION"
[keep]
generations = 1
grace = "0m"
END
}

# add_rooted NAME: an object that is synced, with a root.
add_rooted() {
    echo "published $1" >"/tmp/$1"
    ln -sfn "$(with_live nix-store --add "/tmp/$1")" "$LIVE/nix/var/nix/gcroots/$1"
    sync
}
