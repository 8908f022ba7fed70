# The store of this scenario, with all its state on the disk that goes through the power cuts.
# shellcheck shell=sh
describe_store() {
    describe_system_store "/data/lower?read-only=true" <<END
state = "/data/state"

[gc]
schedule = "Mon 03:00"
optimise = true
END
    grep -q sync-before /etc/nix/nix.conf || echo 'sync-before-registering = true' >>/etc/nix/nix.conf
}

# add TEXT: an object with this content.
add() {
    echo "$1" >"/tmp/${1%% *}"
    nix-store --add "/tmp/${1%% *}"
}

# collect_by_unit: what the timer does.
collect_by_unit() { systemctl start overstore-gc@system.service; }

# add_below NAME: what `add` has added, to the lower store.
add_below() {
    NIX_CONFIG='build-users-group =' NIX_REMOTE= \
        nix-store --store 'local?root=/data/lower' --add "/tmp/$1" >/dev/null
    sqlite3 /data/lower/nix/var/nix/db/db.sqlite 'pragma wal_checkpoint(truncate)' >/dev/null
    overstore remount system
}
