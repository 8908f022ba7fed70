# Two versions of a lower store, and stores over them.
# shellcheck shell=sh

# Objects that are made here, by names that Nix takes for built ones: their contents can be others.
gone=/nix/store/1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-gone
gone_too=/nix/store/2aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-gone-too
unneeded=/nix/store/3aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-unneeded
changed=/nix/store/4aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-changed
twice=/nix/store/5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-twice

# make_versions: the stores /data/a and, after it, /data/b.
make_versions() {
    mkdir -p /data/a/nix/store/.links
    cp -a "$LOWER"/nix/store/* /data/a/nix/store/
    nix-store --store "local?root=$LOWER&read-only=true" \
        --option extra-experimental-features read-only-local-store --dump-db >/tmp/registration
    nix-store --store local?root=/data/a --load-db </tmp/registration
    cp -a /data/a /data/b
    # A day later.
    sqlite3 /data/b/nix/var/nix/db/db.sqlite 'update ValidPaths set registrationTime = registrationTime + 86400'
    : >/tmp/registration
    object /data/a "$gone" 'said by what is gone'
    object /data/a "$gone_too" 'said by the other that is gone' "$gone"
    object /data/a "$unneeded" 'said by what nobody needs'
    object /data/a "$changed" 'before'
    register /data/a
    object /data/b "$changed" 'afterwards'
    object /data/b "$twice" 'in both layers'
    register /data/b
}

# object TREE PATH WORDS [REFERENCE...]: makes one, and notes what is to be registered.
object() {
    tree=$1 path=$2 words=$3
    shift 3
    mkdir -p "$tree$path/sub"
    echo "$words" >"$tree$path/words"
    head -c 300000 /dev/zero | tr '\0' "${words%"${words#?}"}" >"$tree$path/sub/large"
    nix-store --dump "$tree$path" >/tmp/nar
    {
        echo "$path"
        sha256sum /tmp/nar | cut -c1-64
        stat -c %s /tmp/nar
        echo
        echo $#
        [ $# = 0 ] || printf '%s\n' "$@"
    } >>/tmp/registration
}

# register TREE: what was noted.
register() {
    nix-store --store "local?root=$1" --load-db </tmp/registration
    : >/tmp/registration
    sqlite3 "$1/nix/var/nix/db/db.sqlite" 'pragma wal_checkpoint(truncate)' >/dev/null
}

# describe NAME LOWER WHEN-REPLACED: a store at /stores/NAME with its layers on the disk.
describe() {
    mkdir -p /etc/overstore
    cat >"/etc/overstore/$1.toml" <<END
root = "/stores/$1"
lower-store = "$2?read-only=true"
upper-layer = "/data/$1/upper"
workdir = "/data/$1/work"
lower.when-replaced = "$3"
END
}

# rows DATABASE: what it says of each path.
rows() { sqlite3 "$1" 'select path, hash, narSize from ValidPaths order by path'; }
