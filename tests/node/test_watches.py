"""Files and directories that a program watches by inotify(7) or fanotify(7)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.node import bare, configured
from tests.node.support import Life, Site, home

# Watches its arguments; for each line that it reads, it prints "name mask;" for each event since.
INOTIFY = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
watcher = libc.inotify_init1(os.O_NONBLOCK)
names = {}
for path in sys.argv[1:]:
    os.path.exists(path) or os.mkdir(path)
    number = libc.inotify_add_watch(watcher, path.encode(), 0x106)  # modify, attributes, create
    assert number > 0, (path, os.strerror(ctypes.get_errno()))
    names[number] = path
os.path.exists("/data/gone") and os.unlink("/data/gone")
for _ in sys.stdin:
    data, said = b"", []
    try:
        data = os.read(watcher, 1 << 16)
    except BlockingIOError:
        pass
    while data:
        number, mask, _, size = struct.unpack("=iIII", data[:16])
        said.append(f"{names[number]} {mask & 0xffff:x}")
        data = data[16 + size:]
    print(";".join(said), flush=True)
"""
FANOTIFY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
watcher = libc.fanotify_init(0x200 | 2, os.O_RDONLY)  # with file handles, as anybody may
assert watcher >= 0, os.strerror(ctypes.get_errno())
marked = libc.fanotify_mark(watcher, 1, ctypes.c_uint64(0x2), -100, sys.argv[1].encode())  # add: modify
assert not marked, os.strerror(ctypes.get_errno())
for _ in sys.stdin:
    try:
        print(len(os.read(watcher, 1 << 16)) > 0, flush=True)
    except BlockingIOError:
        print(False, flush=True)
"""
WATCHED = ("/", "/tmp", "/data", "/data/a/b/c", "/data/file", "/single", "/scratch/made", "/etc/passwd")


@pytest.fixture
def life(site: Site, user: str) -> Iterator[Life]:
    life = site.container(user, site.spec(user))
    site.exec(["sh", "-c", f"cd {life.bundle} && mkdir -p data/a/b/c && touch data/file data/gone single"], user)
    for source in ("data", "single"):
        life.spec["mounts"].append(configured.bind(life.bundle, f"/{source}", source, ["bind"]))
    life.spec["mounts"].append(configured.tmpfs("/scratch"))
    try:
        with site.lending(user):
            yield life
    finally:
        life.stop()


def start(life: Life, program: str, *paths: str, before: str = "") -> None:
    life.spec["process"]["args"] = ["python3", "-I", "-c", program, *paths]
    life.write()
    life.run()
    assert ask(life) in (before, "False")


def ask(life: Life) -> str:
    assert life.process and life.process.stdin and life.process.stdout
    life.process.stdin.write("\n")
    life.process.stdin.flush()
    line = life.process.stdout.readline()
    assert line, life.said()
    return line.rstrip("\n")


@pytest.mark.parametrize("user", ["root", "alice"])
def test_watches(life: Life) -> None:
    """Of the root file system, of binds, below them, in memory; twice, since a restored one is dumped again."""
    start(life, INOTIFY, *WATCHED)
    for _ in range(2):
        life.checkpoint()
        life.restore()
        assert ask(life) == ""
        root = f"/proc/{life.state()['pid']}/root"
        for path in WATCHED:
            life.site.exec(["chmod", "u+w", root + path])
            # The directory that it is in may be watched, too.
            assert f"{path} 4" in ask(life).split(";")
    assert life.end() == 0


@pytest.mark.parametrize("user", ["alice"])
def test_what_has_no_path_any_more(life: Life) -> None:
    """A file that was removed, and is still open."""
    program = "keep = open('/data/gone')" + INOTIFY
    start(life, program, "/data/gone", before="/data/gone 4")
    done = life.checkpoint(check=False)
    assert done.returncode == 1
    assert "watches a file (inotify) of which no path is found: inode " in done.stderr
    assert ask(life) == ""


def test_what_is_missing_at_the_restore(site: Site) -> None:
    """To a task without a container it is gone, as if its file system were unmounted; other watches go on."""
    paths = [f"{home('alice')}/{name}" for name in ("first", "second", "third")]
    life = bare.task(site, "alice", "python3", "-I", "-c", INOTIFY, *paths)
    with site.lending("alice"):
        life.run()
        try:
            assert ask(life) == ""
            life.checkpoint()
            site.exec(["rmdir", *paths[:2]], "alice")
            life.restore()
            told = [event for path in paths[:2] for event in (f"{path} 2000", f"{path} 8000")]
            assert sorted(ask(life).split(";")) == told
            assert all(f"{path} is missing on this node" in life.said() for path in paths[:2])
            site.exec(["chmod", "700", paths[2]], "alice")
            life.checkpoint()
            life.restore()
            assert ask(life) == ""
            site.exec(["chmod", "755", paths[2]], "alice")
            assert ask(life) == f"{paths[2]} 4"
            assert life.end() == 0
        finally:
            life.stop()
            site.exec(["rmdir", paths[2]], "alice")


@pytest.mark.parametrize("user", ["alice"])
def test_fanotify(life: Life) -> None:
    start(life, FANOTIFY, "/data/file")
    life.checkpoint()
    life.restore()
    assert ask(life) == "False"
    life.site.exec(["sh", "-c", f"echo more >>{life.bundle}/data/file"], life.user)
    assert ask(life) == "True"
    assert life.end() == 0
