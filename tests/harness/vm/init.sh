#!/bin/sh
# The first program in the virtual machine: mounts what systemd mounts elsewhere, runs /command, switches off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for place in /run /home /root; do mount -t tmpfs -o mode=755 tmpfs "$place"; done
for place in /dev/shm /tmp /var/tmp /shared; do
	mkdir -p "$place"
	mount -t tmpfs -o mode=1777 tmpfs "$place"
done
for user in alice bob; do install -d -m 0700 -o "$user" -g "$user" "/home/$user"; done
exec </dev/null >/dev/console 2>&1
stty -F /dev/console -onlcr
ip link set lo up
modprobe tun  # /dev/net/tun: the first to open it would load it, but for nodes having no such file
# As on a node, the root of the control groups is for groups only.
mkdir /sys/fs/cgroup/tests
echo $$ >/sys/fs/cgroup/tests/cgroup.procs
cd /src || exit
setsid --wait sh /command
echo $? >/status
sync /status  # not all: what NFS has not written yet might have no server any more
echo o >/proc/sysrq-trigger
sleep 60
