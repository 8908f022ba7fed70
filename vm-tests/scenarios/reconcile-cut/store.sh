# The store that goes through the power cuts: all of it is on that disk.
# shellcheck shell=sh
. "$OVERSTORE_TEST/exchanged/store.sh"

# describe_cut LOWER
describe_cut() {
    mkdir -p /etc/overstore
    cat >/etc/overstore/cut.toml <<END
root = "/data/cut/root"
lower-store = "$1?read-only=true"
upper-layer = "/data/cut/upper"
workdir = "/data/cut/work"
END
}

with_cut() {
    nix-store --store "$(overstore url cut)" \
        --option extra-experimental-features 'local-overlay-store read-only-local-store' "$@"
}

# What it has in the end: objects as they show, rows, what is above, and what is left of the work.
all_of_cut() {
    (
        cd /data/cut/root/nix/store
        find . -printf '%y %m %U:%G %p %l\n' | sort
        find . -type f -exec md5sum {} + | sort
    )
    sqlite3 /data/cut/root/nix/var/nix/db/db.sqlite \
        'select path, hash, narSize, sigs from ValidPaths order by path; select count(*) from Refs;
         pragma integrity_check; pragma foreign_key_check'
    ls /data/cut/upper
    ls -R /data/cut/work/overstore
}
