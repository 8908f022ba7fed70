# A store of this scenario, from its description (standard input adds to it) to
# use by real Nix.
# shellcheck shell=sh

# use_store NAME LOWER-STORE: sets it up, opens it with Nix, adds an object.
use_store() {
    mkdir -p /etc/overstore
    {
        cat <<END
root = "/stores/$1"
lower-store = "$2"
upper-layer = "/data/$1/upper"
workdir = "/data/$1/work"
END
        cat
    } >"/etc/overstore/$1.toml"
    systemctl daemon-reload
    systemctl start "overstore-$1.service"
    overstore check "$1"
    url=$(overstore url "$1")
    with_store --check-validity "$lower_app"
    is_equal 'said by the lower library' "$(cat "/stores/$1$lower_lib/words")" "the object in $1"
    echo "added to $1" >/tmp/added
    added=$(with_store --add /tmp/added)
    is_there "/data/$1/upper/$(name_of "$added")"
    is_absent "/data/$1/upper/$(name_of "$lower_app")"
    overstore check "$1"
}

# Nix with the store that was used last.
with_store() {
    nix-store --option extra-experimental-features 'local-overlay-store read-only-local-store' --store "$url" "$@"
}
