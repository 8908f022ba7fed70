# The stores of this scenario: "system", with all its state on the disk that goes
# through the power cuts, and one for each cut of `up`, so that there is always
# something to set up.
# shellcheck shell=sh
describe_stores() {
    echo 'state = "/data/state"' | describe_system_store
    grep -q sync-before /etc/nix/nix.conf || echo 'sync-before-registering = true' >>/etc/nix/nix.conf
    for directory in /data/up-*; do
        [ ! -d "$directory" ] || describe_up_store "${directory#/data/}"
    done
}

describe_up_store() {
    mkdir -p "/data/$1"
    cat >"/etc/overstore/$1.toml" <<END
root = "/data/$1/root"
lower-store = "$LOWER?read-only=true"
upper-layer = "/data/$1/upper"
workdir = "/data/$1/work"
END
}
