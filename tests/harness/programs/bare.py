"""Has files in the places that a task without a container has for itself, and tells what it sees."""

import ctypes
import json
import mmap
import os
import socket
import sys
import tempfile
from pathlib import Path

HOME = Path.home()
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p

Path("/tmp/kept").write_text("kept")
Path("/tmp/closed").write_text("closed")
Path("/tmp/closed").chmod(0)
Path("/tmp/link").symlink_to("kept")
os.mkfifo("/tmp/fifo")
fifo = os.open("/tmp/fifo", os.O_RDWR)
os.write(fifo, b"fifo")
listening = socket.socket(socket.AF_UNIX)
listening.bind("/tmp/socket")
listening.listen()
Path("/var/tmp/deep/er").mkdir(parents=True)
Path("/var/tmp/deep/er/file").write_text("deep")
directory = os.open("/var/tmp/deep", os.O_RDONLY)
unlinked = tempfile.TemporaryFile("w+")
unlinked.write("unlinked")
unlinked.flush()
renamed = Path("/tmp/renamed").open("w+")
os.link("/tmp/renamed", "/tmp/other name")
os.unlink("/tmp/renamed")
gone = (HOME / "gone").open("w+")
gone.write("gone")
gone.flush()
(HOME / "gone").unlink()
appended = (HOME / "appended").open("a")
watch = libc.inotify_init1(os.O_NONBLOCK)
libc.inotify_add_watch(watch, b"/tmp", 0x100)  # IN_CREATE
libc.inotify_add_watch(watch, os.fsencode(HOME), 0x100)
with Path("/dev/shm/shared").open("w+b") as stream:
    stream.truncate(1 << 20)
    shared = mmap.mmap(stream.fileno(), 1 << 20)
shared[:6] = b"shared"
segment = libc.shmat(libc.shmget(4711, 4096, 0o1600), None, 0)
ctypes.memmove(segment, b"segment", 7)
script = Path("/src/tests/harness/programs/bare.py").open()
for looks, _ in enumerate(sys.stdin, 1):
    unlinked.seek(0)
    gone.seek(0)
    client = socket.socket(socket.AF_UNIX)
    client.connect("/tmp/socket")
    listening.accept()[0].close()
    client.close()
    os.write(fifo, b"fifo")
    appended.write(f"{looks}\n")
    appended.flush()
    Path(f"/tmp/new{looks}").touch()
    (HOME / f"new{looks}").touch()
    seen = {
        "ids": [os.getuid(), os.getgid()],
        "groups": sorted(os.getgroups()),
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "umask": os.umask(0o22),
        "processes": sorted(name for name in os.listdir("/proc") if name.isdecimal()),
        "host": os.uname().nodename,
        "tmp": sorted(set(os.listdir("/tmp")) - {f"new{looks}"}),
        "modes": [oct(os.lstat(path).st_mode) for path in ("/tmp", "/tmp/closed", "/tmp/fifo", "/var/tmp/deep")],
        "kept": Path("/tmp/link").read_text(),
        "deep": Path("/var/tmp/deep/er/file").read_text(),
        "directory": os.listdir(directory),
        "unlinked": [unlinked.read(), os.fstat(unlinked.fileno()).st_nlink, gone.read()],
        "renamed": [os.fstat(renamed.fileno()).st_nlink, os.stat("/tmp/other name").st_nlink],
        "fifo": os.read(fifo, 4).decode(),
        "watched": len(os.read(watch, 4096)),
        "shared": [shared[:6].decode(), Path("/dev/shm/shared").read_bytes()[:6].decode()],
        "segment": ctypes.string_at(segment, 7).decode(),
        "appended": (HOME / "appended").read_text().count("\n") - looks,
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "capabilities": [line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line],
        "looks": looks,
    }
    os.unlink(f"/tmp/new{looks}")
    os.unlink(HOME / f"new{looks}")
    print(json.dumps(seen), flush=True)
os.unlink(HOME / "appended")
sys.exit(7)
