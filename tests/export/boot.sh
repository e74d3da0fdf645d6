#!/bin/bash
# Boots systemd over an overlay of this machine's root. Called in namespaces of its own (mount, PID, network): nothing
# that happens in there is seen outside. FOLDER is what tests and box share, as /mnt/host.
set -e
folder=$1 base=$2
mount --make-rprivate /
mount -t tmpfs tmpfs "$base"
mkdir "$base"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$base/root"
cd "$base/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p mnt/host .old etc/tmpfiles.d
mount --bind "$folder" mnt/host
ip link set lo up
: > etc/tmpfiles.d/tmp.conf  # or it would empty /tmp, where the tests keep their model stores
pivot_root . .old
umount -l /.old
export container=test
exec /lib/systemd/systemd --system --unit=basic.target --log-target=null --show-status=0 </dev/null
