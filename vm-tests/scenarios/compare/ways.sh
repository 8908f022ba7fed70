# The four ways. A consumer is a mount namespace with a /nix of its own, as a machine has one, so that the
# same commands of Nix do the same in all of them.
# shellcheck shell=sh

OWNER=/owner
CONSUMERS=/consumers
SHARED=$OWNER/shared
PUBLICATION=$OWNER/publication
NAMESPACES=$STATE/namespaces

# The store itself, in each namespace: what users have beside it is not compared.
export NIX_REMOTE=local
export NIX_CONFIG='experimental-features = nix-command local-overlay-store read-only-local-store
substituters =
sandbox = false
build-users-group ='

# owner COMMAND...: with the owner's /nix.
owner() { unshare --mount sh -euc 'mount --bind "$1" /nix; shift; "$@"' sh "$OWNER/nix" "$@"; }

# inside N COMMAND...: in the namespace of that consumer.
inside() {
    namespace=$(cat "$NAMESPACES/$1")
    shift
    nsenter --target="$namespace" --mount -- "$@"
}

# A namespace in which /nix is that directory; it lasts until `leave`.
enter() { # N DIRECTORY
    mkdir -p "$NAMESPACES" "$CONSUMERS/$1/run" /run/overstore
    mkfifo "$CONSUMERS/$1/entered"
    unshare --mount --propagation=private sh -euc 'mount --bind "$1" /nix; mount --bind "$2" /run/overstore
        echo $$ >"$3"; exec sleep infinity' \
        sh "$2" "$CONSUMERS/$1/run" "$CONSUMERS/$1/entered" >/dev/null 2>&1 &
    cat "$CONSUMERS/$1/entered" >"$NAMESPACES/$1"
}

set_up_nothing() {
    mkdir -p "$CONSUMERS/$1"
    cp -a "$OWNER/nix" "$CONSUMERS/$1/nix"
    enter "$1" "$CONSUMERS/$1/nix"
}

# One store, written by all. SQLite's write-ahead log needs memory that is shared, which NFS has not. Nix
# locks the database with a directory then, which does not tell NFS to look at the file again: without
# `noac`, sixteen builds at once leave it malformed, and with it sometimes.
set_up_everything() {
    mkdir -p "$CONSUMERS/$1/nix"
    mount -t nfs -o vers=4.2,nosharecache,noac 127.0.0.1:"$SHARED" "$CONSUMERS/$1/nix"
    enter "$1" "$CONSUMERS/$1/nix"
}

set_up_overlay() {
    mkdir -p "$CONSUMERS/$1/upper" "$CONSUMERS/$1/work" "$CONSUMERS/$1/nix"
    mount -t overlay overlay "$CONSUMERS/$1/nix" \
        -o "lowerdir=$OWNER/nix,upperdir=$CONSUMERS/$1/upper,workdir=$CONSUMERS/$1/work"
    enter "$1" "$CONSUMERS/$1/nix"
}

set_up_overstore() {
    mkdir -p "$CONSUMERS/$1/nix/store" "$CONSUMERS/$1/nix/var"
    cat >"$CONSUMERS/$1/consumer.toml" <<TOML
upper-layer = "$CONSUMERS/$1/upper"
workdir = "$CONSUMERS/$1/work"
[lower]
publication = "$PUBLICATION"
real = "$OWNER/nix/store"
TOML
    enter "$1" "$CONSUMERS/$1/nix"
    inside "$1" overstore up "$CONSUMERS/$1/consumer.toml" >/dev/null
    inside "$1" overstore url "$CONSUMERS/$1/consumer.toml" >"$CONSUMERS/$1/url"
}

# nix_of WAY N COMMAND...: Nix, as a consumer runs it.
nix_of() {
    way=$1
    consumer=$2
    shift 2
    case $way in
    everything) NIX_CONFIG="$NIX_CONFIG
use-sqlite-wal = false" inside "$consumer" "$@" ;;
    overstore) NIX_REMOTE=$(cat "$CONSUMERS/$consumer/url") inside "$consumer" "$@" ;;
    *) inside "$consumer" "$@" ;;
    esac
}

# What an owner does once, before there are consumers.
prepare() {
    case $1 in
    everything)
        exportfs -ua
        rm -rf "$SHARED"
        cp -a "$OWNER/nix" "$SHARED"
        sqlite3 "$SHARED/var/nix/db/db.sqlite" 'pragma journal_mode = truncate' >/dev/null
        # Here all consumers are one client to the server, which would let it keep what another of them
        # changes: machines are several. Without leases there are no delegations.
        sysctl -q fs.leases-enable=0
        echo "$SHARED *(rw,sync,no_root_squash,no_subtree_check,fsid=1)" >/etc/exports
        systemctl start nfs-server.service
        exportfs -r
        ;;
    overstore)
        mkdir -p /etc/overstore/publications
        cat >/etc/overstore/publications/main.toml <<TOML
root = "$OWNER"
publication = "$PUBLICATION"
include.all-valid = true
TOML
        overstore publish main >/dev/null 2>&1
        ;;
    esac
}

# Ends all consumers of a way, and removes what they have.
leave() {
    for file in "$NAMESPACES"/*; do
        [ -e "$file" ] || continue
        kill "$(cat "$file")" || :
    done
    rm -rf "$NAMESPACES"
    for mounted in "$CONSUMERS"/*/nix; do
        if mountpoint -q "$mounted"; then
            wait_until umount "$mounted"
        fi
    done
    sync
    # Removing a hundred copies one by one takes longer than making them.
    wait_until umount "$CONSUMERS"
    empty_consumers
}

# An empty disk for the consumers: nothing of it is still being written when this returns.
empty_consumers() {
    mkdir -p "$CONSUMERS"
    mkfs.ext4 -q -F -E lazy_itable_init=1,nodiscard -i 16384 /dev/disk/by-id/virtio-consumers
    mount -o noinit_itable /dev/disk/by-id/virtio-consumers "$CONSUMERS"
    sync
}

# What one run has measured, for the table.
figure() { note "figure $*"; } # WAY WHAT CONSUMERS VALUE

centiseconds() { cut -d' ' -f1 /proc/uptime | tr -d .; }

# seconds BEGAN: since then.
seconds() {
    passed=$(($(centiseconds) - $1))
    echo "$((passed / 100)).$(printf %02d $((passed % 100)))"
}

# each N COMMAND...: for every consumer, `COMMAND... NUMBER`, all at once; fails if one does.
each() {
    count=$1
    shift
    pids=
    for number in $(seq "$count"); do
        "$@" "$number" &
        pids="$pids $!"
    done
    failures=0
    for pid in $pids; do
        wait "$pid" || failures=$((failures + 1))
    done
    [ "$failures" = 0 ] || die "$failures of $count consumers failed: $*"
}
