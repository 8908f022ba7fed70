#!/bin/bash
# world.sh TREE PROGRAM BASE [DIRECTORY PLACE]...: process 1 of a World (see world.rs), to be started as root with mount
# and PID namespaces of its own. BASE is an empty directory that it may mount over.
#
# Makes TREE the root directory, with a private writable layer over it and each DIRECTORY at its PLACE,
# prints its process id as
# /proc outside shows it, and lives until its standard input closes, which happens however the test
# ends; the kernel then ends all other processes of the World, and its mounts go with them.
set -euo pipefail
tree=$1 program=$2 base=$3
shift 3

# The builtin reads the old /proc, where this is not process 1.
read -r pid _ </proc/self/stat

mount -t tmpfs -o mode=0755 world "$base"
cd "$base"
mkdir tree layer work root
mount --bind "$tree" tree
# Relative, because nothing has to be escaped then.
mount -t overlay world -o lowerdir=tree,upperdir=layer,workdir=work root
cd root

: >usr/bin/overstore
mount --bind "$program" usr/bin/overstore
ln -s overstore usr/bin/overstore-remount
mkdir -p nix etc/nix etc/overstore
# No network: Nix must not wait for it.
echo 'substituters =' >etc/nix/nix.conf

mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=0755 nix nix
while [ $# -gt 0 ]; do
    mkdir -p ".$2"
    mount --bind "$1" ".$2"
    mount -o remount,bind,ro ".$2"
    shift 2
done

# Not chroot(2): the kernel allows no user namespaces in there.
pivot_root . mnt
umount --lazy /mnt
mount -t tmpfs -o mode=0755 scratch /mnt
cd /

# The tree's own shell from here on, so that nothing holds the old root.
exec /bin/bash -c "echo $pid; read -r"
