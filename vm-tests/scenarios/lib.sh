# What the scenarios share. A script begins with
#
#     . "$OVERSTORE_TEST/lib.sh"
#
# and runs as root under `sh -eu`: a command that fails ends it. It finds in its
# environment
#
#     OVERSTORE_TEST           the directory of all scenarios
#     OVERSTORE_TEST_MACHINE   the machine it runs on, for scenarios with two
#     OVERSTORE_TEST_GUEST     the guest ("trixie", ...)
#     OVERSTORE_TEST_PATHS     where the lower store's paths are named, if that is not in it
#     OVERSTORE_TEST_REPORTED  a file: what `report` has told the driver so far
#
# and writes what it wants to know later to $STATE.
# shellcheck shell=sh

# Without this, Nix run by root opens the system's store itself, as a local store.
export NIX_REMOTE=daemon

STATE=/var/lib/overstore-test
mkdir -p "$STATE"

# Says what has gone wrong, and ends the script.
die() {
    echo "FAILED: $*" >&2
    exit 1
}

# Runs a command that has to fail; its output is printed.
fails() {
    if "$@"; then
        die "succeeded, and should not have: $*"
    fi
}

# is_equal EXPECTED FOUND WHAT
is_equal() {
    [ "$1" = "$2" ] || die "$3: expected '$1', found '$2'"
}

# contains TEXT PART: fails unless PART is in TEXT.
contains() {
    case $1 in
    *"$2"*) ;;
    *) die "expected '$2' in: $1" ;;
    esac
}

# lacks TEXT PART: fails if PART is in TEXT.
lacks() {
    case $1 in
    *"$2"*) die "did not expect '$2' in: $1" ;;
    esac
}

is_there() { [ -e "$1" ] || [ -L "$1" ] || die "there is no $1"; }
is_absent() { if [ -e "$1" ] || [ -L "$1" ]; then die "there is a $1"; fi; }
is_active() { is_equal active "$(systemctl is-active "$1" || :)" "state of $1"; }
is_failed() { is_equal failed "$(systemctl is-active "$1" || :)" "state of $1"; }

# is_up_in_initrd UNIT NAME: that unit of the initrd was started, and all that `up` had to tell at its end
# is that the store NAME is up. A mount alone does not show that: it may be made before something fails.
is_up_in_initrd() {
    is_equal done "$(journal --output-fields=JOB_RESULT _PID=1 "UNIT=$1" JOB_TYPE=start)" "what became of $1"
    is_equal "$2: is up" "$(journal --unit="$1" | grep "^$2: ")" "what 'up' said in the initrd"
}

uptime_seconds() { cut -d. -f1 /proc/uptime; }

# wait_until COMMAND...: until it succeeds. Ten minutes are for what never comes, not for a busy
# machine.
wait_until() {
    wait_began=$(uptime_seconds)
    until "$@" >/dev/null 2>&1; do
        [ $(($(uptime_seconds) - wait_began)) -lt 600 ] || die "did not become true: $*"
        sleep 0.2
    done
}

# journal ARGUMENT...: entries of this boot, and all that was written before this: a busy journal has
# not read everything yet.
journal() {
    journalctl --sync
    journalctl --boot --no-pager --output=cat "$@"
}

# Formats and mounts the disk NAME at DIRECTORY, with a line in /etc/fstab. systemd hears of it when it
# next reads its units.
# new_disk NAME DIRECTORY [TYPE]
new_disk() {
    device=/dev/disk/by-id/virtio-$1
    udevadm wait --timeout=600 "$device"
    type=${3-ext4}
    "mkfs.$type" -q "$device"
    mkdir -p "$2"
    echo "$device $2 $type defaults 0 0" >>/etc/fstab
    mount "$2"
}

# Mounts a disk that new_disk has formatted in an earlier life of the machine.
old_disk() {
    device=/dev/disk/by-id/virtio-$1
    udevadm wait --timeout=600 "$device"
    mkdir -p "$2"
    mount "$device" "$2"
}

# Tells the driver; what was told survives whatever happens to the guest.
report() { echo "$*" >/dev/virtio-ports/overstore.report; }

# Tells people, beside the scenario's result.
note() { report "note $*"; }

# Asks for a power cut, and never returns.
cut_power() {
    report power-cut
    sleep infinity
}

# Runs a command as an ordinary user.
as_user() {
    user=$1
    shift
    # Not every guest has its programs in the usual places.
    setpriv --reuid="$user" --regid="$user" --init-groups --reset-env /usr/bin/env PATH="$PATH" "$@"
}

# The lower store that the image has, and what is in it ($lower_text, $lower_lib,
# $lower_app, $lower_twice).
LOWER=/srv/lower
paths=${OVERSTORE_TEST_PATHS-$LOWER/paths}
if [ -r "$paths" ]; then
    . "$paths"
fi

# Describes the store "system", which is at /nix/store and served by the system's
# daemon, with its layers on /data; further lines of the description come from
# standard input.
describe_system_store() {
    mkdir -p /etc/overstore
    {
        echo "lower-store = \"${1-$LOWER?read-only=true}\""
        echo 'upper-layer = "/data/upper"'
        echo 'workdir = "/data/work"'
        echo 'daemon.serve = true'
        cat
    } >/etc/overstore/system.toml
}

# start_store NAME: what a boot would do, without one.
start_store() {
    systemctl daemon-reload
    systemctl restart "overstore-$1.service"
}

# Builds an attribute of the scenarios' expression as a user; prints the output.
# build USER ATTRIBUTE [ARGUMENT...]
build() {
    user=$1
    attribute=$2
    shift 2
    as_user "$user" nix-build --no-out-link "$@" "$OVERSTORE_TEST/expression.nix" \
        --argstr lowerApp "${lower_app-}" -A "$attribute"
}

# collect STORE COMMAND...: collects garbage, with the lower store's metadata copied up and rooted
# before. Without roots Nix's collector copies it and drops it again object by object, and where the
# directory's order has an object before one that refers to it, it stops: "path ... is not valid", or
# "cannot delete path ... because it is in use by ..." (seen with Nix 2.26 in one order of eight).
collect() {
    overstore warm --all --keep "$1"
    shift
    "$@"
}

# The part of a store path after the store directory.
name_of() { echo "${1##*/}"; }

# What a clean store is, to overstore and to Nix.
store_is_good() {
    overstore check "$1"
    nix-store --verify --check-contents
}
