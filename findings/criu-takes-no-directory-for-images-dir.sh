#!/bin/sh
# CRIU 4.1.1 (Debian trixie), RPC by `criu swrk`: setup_opts_from_req() in criu/cr-service.c.
#
# The request's field images_dir, by which a client names the images' directory without a descriptor of it, works only if
# the path is a symbolic link: CRIU opens the directory, and then calls readlink(2) on the path to learn its name, as it
# has to for /proc/PID/fd/N. With the directory's own path every request fails:
#
#     images_dir=/link (to /images): accepted
#     images_dir=/images: Error (criu/cr-service.c:411): Can't readlink /images: Invalid argument
#
# Needs root, mmdebstrap and Debian's mirror, as apt's sources have it.
set -eu

mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' | head -n 1)
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
mmdebstrap --quiet --variant=minbase --include=criu=4.1.1-1,python3-pycriu=4.1.1-1 trixie "$root" "$mirror"
mkdir "$root/images"
ln -s /images "$root/link"

cat >"$root/client.py" <<'PYTHON'
import os, socket, subprocess, sys

from pycriu import rpc_pb2

ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
argv = ["criu", "swrk", str(theirs.fileno())]
criu = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
theirs.close()
request = rpc_pb2.criu_req(type=rpc_pb2.DUMP)
request.opts.images_dir_fd = -1
request.opts.images_dir = sys.argv[1]
request.opts.pid = os.getpid() + 1000000  # there is none: nothing is dumped
request.opts.log_to_stderr = True
ours.send(request.SerializeToString())
ours.recv(1 << 16)
ours.close()
said = criu.communicate()[1]
print(next((line.split(") ", 1)[-1] for line in said.splitlines() if "readlink" in line), "accepted"))
PYTHON

for path in /link /images; do
	found=$(unshare --mount --pid --fork sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$root" \
		python3 -I /client.py $path)
	echo "images_dir=$path: $found"
	case "$path $found" in
	"/link accepted" | "/images Error "*"Can't readlink /images: Invalid argument") ;;
	*) echo "this has changed" >&2; exit 1 ;;
	esac
done
