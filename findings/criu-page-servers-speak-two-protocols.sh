#!/bin/sh
# CRIU 4.1.1 (Debian trixie) and 4.2.1 (forky): struct page_server_iov in criu/page-xfer.c.
#
# By `criu dump --page-server --address … --port …`, memory goes to a `criu page-server` on another machine, in messages
# with a header of a fixed size. In 4.2 a field of it, the number of pages, has grown from 32 bits to 64, so the header
# of 4.1.1 has 24 bytes and that of 4.2.1 has 32. Neither says its version, and commands have the same numbers:
#
#     criu 4.1.1: the first request has 24 bytes
#     criu 4.2.1: the first request has 32 bytes
#
# So the two can't be used together while a site upgrades: whichever side expects the longer header waits for the rest
# of it, and the other one for an answer, with the dumped processes frozen.
#
# This starts a dump of a sleeping process with each, to a listener that counts what comes, and hangs up. (4.1.1 may give
# up before, if Linux is too new for it; it says so to the page server in a request, too.)
# Needs root, mmdebstrap and Debian's mirror, as apt's sources have it.
set -eu

mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' | head -n 1)
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT

cat >"$root/listen.py" <<'PYTHON'
import os, socket, subprocess, time

listener = socket.create_server(("127.0.0.1", 0))
null = subprocess.DEVNULL
sleeper = subprocess.Popen(["sleep", "1000"], stdin=null, stdout=null, stderr=null, start_new_session=True)
port = str(listener.getsockname()[1])
os.makedirs("/images")
argv = ["criu", "dump", "--tree", str(sleeper.pid), "--images-dir", "/images", "--page-server", "--address", "127.0.0.1"]
argv += ["--port", port, "--manage-cgroups=ignore", "--network-lock=skip"]
dump = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null)
listener.settimeout(30)
connection, _ = listener.accept()
data = connection.recv(4)
time.sleep(1)
data += connection.recv(4096)
print(f"the first request has {len(data)} bytes")
connection.close()
dump.wait()
sleeper.kill()
PYTHON

for pair in trixie:4.1.1 forky:4.2.1; do
	suite=${pair%:*} version=${pair#*:}
	mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
		--include=criu="$version-1",python3 "$suite" "$root/$suite" "$mirror"
	cp "$root/listen.py" "$root/$suite/"
	found=$(unshare --mount --pid --net --fork sh -c '
		mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
		ip link set lo up && exec chroot "$0" python3 -I /listen.py' "$root/$suite")
	echo "criu $version: $found"
	case "$version $found" in
	"4.1.1 the first request has 24 bytes" | "4.2.1 the first request has 32 bytes") ;;
	*) echo "this has changed" >&2; exit 1 ;;
	esac
done
