"""Has files in the places that a task without a container has for itself, and tells what it sees."""

import json
import mmap
import os
import socket
import sys
import tempfile
from pathlib import Path

Path("/tmp/kept").write_text("kept")
Path("/tmp/closed").write_text("closed")
Path("/tmp/closed").chmod(0)
Path("/tmp/link").symlink_to("kept")
os.mkfifo("/tmp/fifo")
listening = socket.socket(socket.AF_UNIX)
listening.bind("/tmp/socket")
listening.listen()
Path("/var/tmp/deep/er").mkdir(parents=True)
Path("/var/tmp/deep/er/file").write_text("deep")
unlinked = tempfile.TemporaryFile("w+")
unlinked.write("unlinked")
unlinked.flush()
with Path("/dev/shm/shared").open("w+b") as stream:
    stream.truncate(1 << 20)
    shared = mmap.mmap(stream.fileno(), 1 << 20)
shared[:6] = b"shared"
script = Path("/src/tests/harness/programs/bare.py").open()
for looks, _ in enumerate(sys.stdin, 1):
    unlinked.seek(0)
    client = socket.socket(socket.AF_UNIX)
    client.connect("/tmp/socket")
    listening.accept()[0].close()
    client.close()
    seen = {
        "ids": [os.getuid(), os.getgid()],
        "groups": sorted(os.getgroups()),
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "umask": os.umask(0o22),
        "processes": sorted(name for name in os.listdir("/proc") if name.isdecimal()),
        "host": os.uname().nodename,
        "tmp": sorted(os.listdir("/tmp")),
        "kept": Path("/tmp/link").read_text(),
        "deep": Path("/var/tmp/deep/er/file").read_text(),
        "unlinked": unlinked.read(),
        "shared": [shared[:6].decode(), Path("/dev/shm/shared").read_bytes()[:6].decode()],
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "capabilities": [line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line],
        "looks": looks,
    }
    print(json.dumps(seen), flush=True)
sys.exit(7)
