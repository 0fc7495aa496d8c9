#!/bin/sh
# CRIU 4.1.1 (Debian trixie), and 4.2: dump_sk_queue() in criu/sk-queue.c.
#
# What waits to be read from a Unix socket is dumped message by message, until recvmsg(2) returns 0, which CRIU takes
# for the end of a stream. A datagram may be empty, though. Whatever follows one is left out; neither the dump nor the
# restore says anything:
#
#     before: one, an empty datagram, two
#     after:  one
#
# Needs root, mmdebstrap and Debian's mirror, as apt's sources have it.
set -eu

mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' | head -n 1)
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
mmdebstrap --quiet --variant=minbase --include=criu=4.1.1-1,python3-minimal,util-linux trixie "$root" "$mirror"

cat >"$root/reader.py" <<'PYTHON'
import os, signal, socket

os.setsid()
os.closerange(3, 1000)  # what this script was given
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
ours.setblocking(False)
for text in (b"one", b"", b"two"):
    theirs.send(text)


def tell(*_):
    found = []
    try:
        while True:
            found.append(ours.recv(9).decode())
    except BlockingIOError:
        pass
    with open("/found.new", "w") as file:
        print(found, file=file)
    os.rename("/found.new", "/found")


signal.signal(signal.SIGUSR1, tell)
open("/ready", "w").close()
while True:
    signal.pause()
PYTHON

cat >"$root/all.sh" <<'SHELL'
set -eu
mount -t proc proc /proc
mkdir /images
python3 -I /reader.py </dev/null >/dev/null 2>&1 &
pid=$!
until test -e /ready; do sleep 0.1; done
criu dump --tree $pid --images-dir /images --log-file dump.log || { grep Error /images/dump.log >&2; exit 1; }
wait $pid || true
criu restore --restore-detached --images-dir /images --log-file restore.log ||
	{ grep Error /images/restore.log >&2; exit 1; }
kill -USR1 $pid
until test -e /found; do sleep 0.1; done
cat /found
SHELL
found=$(unshare --mount --pid --fork sh -c 'mount --bind "$0" "$0" && exec chroot "$0" sh /all.sh' "$root")
echo "after: $found"
test "$found" = "['one']" || { echo "this has changed" >&2; exit 1; }
