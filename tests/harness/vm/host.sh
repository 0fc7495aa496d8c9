#!/bin/sh
# Runs the virtual machine, in mount and pid namespaces of its own: HOST.SH MACHINE NODE BUNDLE LAYER CHECKOUT COMMAND.
# Its root is one of the nodes', with the machine's below it, and what it writes is in memory: all three are of the
# same release of Debian. Processors are emulated: that works everywhere.
set -e
machine=$1 node=$2 bundle=$3 layer=$4 checkout=$5 command=$6
here=$machine/mnt
cache=$here/root/var/cache/oci-criu-shim

mount -t tmpfs tmpfs "$here"
mkdir "$here/upper" "$here/work" "$here/root"
layers="lowerdir=$layer:$node:$machine,upperdir=$here/upper,workdir=$here/work"
mount -t overlay -o "$layers" overlay "$here/root"
printf '%s\n' "$command" >"$here/root/command"

# What it has of this machine, read-only; its nodes find the checkout installed in their root.
mkdir -p "$here/root/src" "$cache/${node##*/}" "$cache/${bundle##*/}"
mount --bind "$checkout" "$here/root/src"
mount --bind "$bundle" "$cache/${bundle##*/}"
mount -o remount,bind,ro "$here/root/src"
mount -o remount,bind,ro "$cache/${bundle##*/}"
mount -t overlay -o "lowerdir=$layer:$node" overlay "$cache/${node##*/}"

mount -t proc proc "$machine/proc"
mount --rbind /dev "$machine/dev"
mount -t tmpfs tmpfs "$machine/tmp"
chroot "$machine" /usr/libexec/virtiofsd --sandbox none --xattr --cache always --log-level error \
	--socket-path /mnt/socket --shared-dir /mnt/root &
until test -S "$here/socket"; do sleep 0.05; done

# Its console is read from something that never ends, or qemu would ask /dev/null all the time.
mkfifo "$here/silence"
exec <>"$here/silence"
kernel=$(cd "$machine" && ls boot/vmlinuz-*)
# In a session of its own: on a busy machine, the kernel gives each session its share (autogroups of sched(7)).
chroot "$machine" setsid --wait qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3G -no-reboot \
	-object memory-backend-memfd,id=memory,size=3G,share=on -numa node,memdev=memory \
	-chardev socket,id=root,path=/mnt/socket -device vhost-user-fs-pci,chardev=root,tag=root \
	-display none -monitor none -nic none -serial stdio -kernel "/$kernel" \
	-append 'rootfstype=virtiofs root=root rw init=/src/tests/harness/vm/init.sh console=ttyS0 quiet panic=-1 mitigations=off'
exit "$(cat "$here/root/status")"
