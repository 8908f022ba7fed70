# The owner's side: the lower store, and its publication.
# shellcheck shell=sh

PUBLICATIONS=/srv/publications

# Nix with the lower store, by itself.
with_lower() { NIX_REMOTE='' NIX_CONFIG='build-users-group =' "$@" --store "local?root=$LOWER"; }

# add_below NAME: an object with a root of that name.
add_below() {
    echo "$1 of the owner" >"/tmp/$1"
    path=$(with_lower nix-store --add "/tmp/$1")
    ln -s "$path" "$LOWER/nix/var/nix/gcroots/$1"
    echo "$path" >"$PUBLICATIONS/$1"
}

# What consumers would change, if they did: all but when it was read.
listing() { find "$LOWER" "$PUBLICATIONS" -printf '%p %i %s %m %T@ %C@\n' | sort; }

# remember_listing, and untouched: nothing has changed since.
remember_listing() { listing >"$STATE/listing"; }
untouched() {
    listing >"$STATE/listing.now"
    diff "$STATE/listing" "$STATE/listing.now" || die 'a consumer wrote to what is below'
}
