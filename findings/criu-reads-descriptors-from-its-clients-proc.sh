#!/bin/sh
# CRIU 4.1.1 (Debian trixie), RPC by `criu swrk`.
#
# A client passes images_dir_fd by its number. CRIU does not receive that descriptor: it opens /proc/<client>/fd/<number>,
# which the kernel allows only if CRIU may trace the client. So a client that is not dumpable, as after a change of uid
# or by prctl(PR_SET_DUMPABLE, 0), can have nothing dumped by a CRIU of its own uid and with more capabilities than it
# has itself. The error names CRIU's view of the client, and looks like one of the directory's mode:
#
#     dumpable:     the images directory is opened
#     not dumpable: Error (criu/image.c:721): Can't open dir /proc/PID/fd/3: Permission denied
#
# Needs root, mmdebstrap and Debian's mirror, as apt's sources have it.
set -eu

mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' | head -n 1)
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
mmdebstrap --quiet --variant=minbase --include=criu=4.1.1-1,python3-pycriu=4.1.1-1,util-linux trixie "$root" "$mirror"

cat >"$root/client.py" <<'PYTHON'
import ctypes, os, re, socket, subprocess, sys

from pycriu import rpc_pb2

directory = os.open("/tmp", os.O_RDONLY)
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ctypes.CDLL(None).prctl(4, int(sys.argv[1]), 0, 0, 0)  # PR_SET_DUMPABLE
argv = ["criu", "swrk", str(theirs.fileno())]
criu = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
theirs.close()
request = rpc_pb2.criu_req(type=rpc_pb2.DUMP)
request.opts.images_dir_fd = directory
request.opts.pid = os.getpid() + 1000000  # there is none: nothing is dumped
request.opts.unprivileged = True
request.opts.log_to_stderr = True
ours.send(request.SerializeToString())
ours.recv(1 << 16)
ours.close()
said = criu.communicate()[1]
print(re.sub(r"/proc/\d+", "/proc/PID", next((line for line in said.splitlines() if "Can't open dir" in line), "opened")))
PYTHON

caps=+sys_admin,+sys_chroot
for dumpable in 1 0; do
	found=$(unshare --mount --pid --fork sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$root" \
		setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=$caps --ambient-caps=$caps \
		python3 -I /client.py $dumpable)
	echo "dumpable=$dumpable: $found"
	case "$dumpable $found" in
	"1 opened" | "0 "*"Can't open dir /proc/PID/fd/3: Permission denied") ;;
	*) echo "this has changed" >&2; exit 1 ;;
	esac
done
