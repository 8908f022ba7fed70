# The network between the machines.
# shellcheck shell=sh
network() { # ADDRESS
    modprobe virtio_net
    wait_until sh -c 'ip -o link | grep -q 52:54:00:00:00'
    device=$(ip -o link | sed -n 's/^[0-9]*: \([^:]*\):.*52:54:00:00:00.*/\1/p')
    ip address replace "$1/24" dev "$device"
    ip link set "$device" up
}
