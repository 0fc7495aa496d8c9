"""What is no longer as it was on the node, or never was on this one, when a container is restored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.node.support import Life, Site, Spec

USERS = pytest.mark.parametrize("user", ["root", "alice"])


def sh(life: Life, script: str) -> str:
    """Run a script as the container's user, in its bundle."""
    return life.site.exec(["sh", "-c", f"set -e; cd {life.bundle}; {script}"], life.user).stdout


def bind(life: Life, source: str, destination: str, *options: str) -> None:
    words = ["bind", *options]
    entry = {"destination": destination, "type": "none", "source": f"{life.bundle}/{source}", "options": words}
    life.spec["mounts"].append(entry)


@pytest.fixture
def life(site: Site, user: str) -> Iterator[Life]:
    """A container to be changed and started."""
    life = site.container(user, site.spec(user))
    try:
        with site.lending(user):
            yield life
    finally:
        life.stop()


def start(life: Life) -> None:
    life.write()
    life.run()
    life.look()


def move(life: Life, script: str) -> None:
    """Checkpoint it, run a script as if on another node, and restore it."""
    life.checkpoint()
    sh(life, script)
    life.restore()


def tmpfs(destination: str) -> Spec:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}


@USERS
def test_mount_points_below_binds(life: Life) -> None:
    """As crun would make them: a directory, a file, one whose parent is missing, and one for a file system in memory.

    Those in the root file system are made, too.
    """
    sh(life, "mkdir work other; echo there >other/file; echo single >single")
    bind(life, "work", "/work")
    bind(life, "other", "/work/in/b")
    bind(life, "single", "/work/in/c/single")
    made = f"/tmp/{life.name}"
    bind(life, "other", f"{made}/here")
    life.spec["mounts"].append(tmpfs("/work/memory"))
    life.spec["process"]["args"] += ["/work/in/b/file", "/work/in/c/single", f"{made}/here/file"]
    start(life)
    before = life.look()
    root = life.spec["root"]["path"]
    move(life, f"rmdir work/memory work/in/b; rm -r work/in; rm -r {root}{made}")
    assert life.look()["held"] == before["held"]
    assert "/work/memory" in {mount["point"] for mount in life.look()["mounts"]}
    assert life.end() == 0


@pytest.mark.parametrize("user", ["alice"])
def test_no_mount_point_behind_a_link(life: Life) -> None:
    """It would be somewhere else."""
    sh(life, "mkdir work other elsewhere")
    bind(life, "work", "/work")
    bind(life, "other", "/work/in/b")
    start(life)
    move(life, "rm -r work/in; ln -s ../elsewhere work/in")
    assert life.end() == 1
    assert f"the mount point /work/in/b is missing in {life.bundle}/work, and can't be made" in life.said()
    assert sh(life, "ls elsewhere") == ""


@USERS
@pytest.mark.parametrize(("directory", "program"), [("775", "700"), ("g+ws,+t", "u+s")])
def test_other_access_rights(life: Life, directory: str, program: str) -> None:
    """A file that is open for reading, one that is open for writing, the working directory, a program."""
    sh(life, "mkdir data; echo read >data/file; cp /usr/bin/sleep data; echo kept >data/written")
    bind(life, "data", "/data")
    life.spec["process"]["cwd"] = "/data"
    script = "/data/sleep 600 & exec 9>>/data/written; exec python3 -I /inside.py /data/file"
    life.spec["process"]["args"] = ["sh", "-c", script]
    start(life)
    move(life, f"chmod 664 data/file; chmod 444 data/written; chmod {directory} data; chmod {program} data/sleep")
    assert life.look()["held"]["/data/file"]
    assert life.end() == 0


@USERS
def test_another_program(life: Life) -> None:
    """It is as long, with the same rights: only what is in it tells."""
    sh(life, "mkdir data; cp /usr/bin/sleep data")
    bind(life, "data", "/data")
    life.spec["process"]["args"] = ["sh", "-c", "/data/sleep 600 & exec python3 -I /inside.py"]
    start(life)
    note = "bytes((20, 0, 0, 0, 3, 0, 0, 0)) + b'GNU'"  # of the build ID
    flip = f"d = bytearray(open('data/sleep', 'rb').read()); d[d.index({note}) + 12] ^= 1"
    move(life, f"""python3 -c "{flip}; open('data/sleep', 'wb').write(d)" """)
    assert life.end() == 1
    assert "data/sleep has bad build-ID" in life.said()


@USERS
@pytest.mark.parametrize("how", ["mv", "rm -r"])
def test_a_replaced_source(life: Life, how: str) -> None:
    """A file and a directory that are bound by themselves: what has the name now is mounted, twice."""
    sh(life, "mkdir dir; echo old >dir/file; echo old >conf")
    bind(life, "conf", "/etc/some.conf")
    bind(life, "dir", "/dir", "ro")
    start(life)
    for number in range(2):
        away = f"mkdir away{number}; mv dir conf away{number}" if how == "mv" else "rm -r dir conf"
        sh(life, f"{away}; mkdir dir; echo {number} >dir/file; echo {number} >conf")
        move(life, "ls")
        roots = {mount["point"]: mount["root"] for mount in life.look()["mounts"]}
        assert not any(root.endswith("//deleted") for root in roots.values())
        pid = life.state()["pid"]
        root = f"/proc/{pid}/root"
        assert sh(life, f"cat {root}/etc/some.conf {root}/dir/file") == f"{number}\n" * 2
    assert sh(life, "cat conf dir/file; ls -d c* d*") == "1\n1\ncheckpoints\nconf\nconfig.json\ndir\n"
    assert life.end() == 0


@USERS
@pytest.mark.parametrize("how", ["mv", "rm -r"])
@pytest.mark.parametrize("what", ["open", "directory", "mapped"])
def test_a_replaced_source_that_is_in_use(life: Life, what: str, how: str) -> None:
    """A program would silently have another file's contents."""
    sh(life, "mkdir dir; cp /usr/bin/sleep dir; echo old >conf")
    bind(life, "conf", "/etc/some.conf")
    bind(life, "dir", "/dir")
    command = {
        "open": "exec 9</etc/some.conf",
        "directory": "(cd /dir; exec sleep 600) &",
        "mapped": "/dir/sleep 600 &",
    }[what]
    life.spec["process"]["args"] = ["sh", "-c", f"{command}\nexec python3 -I /inside.py"]
    start(life)
    sh(life, f"mkdir away; {how} conf dir away; mkdir -p dir; cp /usr/bin/sleep dir; echo new >conf")
    done = life.checkpoint(check=False)
    assert done.returncode == 1
    used = {"open": "/etc/some.conf", "directory": "/dir", "mapped": "/dir/sleep"}[what]
    assert f"still uses {used}, and {life.bundle}/{'conf' if what == 'open' else 'dir'}, which is" in done.stderr
    life.look()
    assert life.end() == 0


@USERS
def test_a_source_that_is_gone(life: Life) -> None:
    sh(life, "mkdir dir; echo old >conf")
    bind(life, "conf", "/etc/some.conf")
    bind(life, "dir", "/dir")
    start(life)
    for name, made in (("conf", "echo new >conf"), ("dir", "mkdir dir")):
        sh(life, f"rm -r {name}")
        done = life.checkpoint(check=False)
        assert done.returncode == 1
        assert f"{life.bundle}/{name}, which is mounted at " in done.stderr
        sh(life, f"mkdir {name}" if name == "conf" else "touch dir")
        kind = "a directory now" if name == "conf" else "no directory any more"
        assert f"is {kind} (hint: put back" in life.checkpoint(check=False).stderr
        sh(life, f"rm -r {name}; {made}")
    life.look()
    life.checkpoint()


def restore_with(life: Life, files: int) -> None:
    """As a node whose slurmd allows that many open files."""
    start = f'ulimit -Sn {min(files, 512)}; ulimit -Hn {files}; exec "$@"'
    life._start_in(
        ["sh", "-c", start, "sh"], "restore", "--image-path", life.images, "--bundle", life.bundle, life.name
    )


@pytest.mark.parametrize("user", ["alice"])
def test_a_node_with_lower_limits(life: Life) -> None:
    """What was in force comes back, or the node doesn't fit; of a limit that can't be raised any more it is said.

    A child has the highest.
    """
    life.spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 600, "hard": 1000}]
    life.spec["process"]["args"] = ["sh", "-c", "(ulimit -Sn 800; exec sleep 600) & exec python3 -I /inside.py"]
    start(life)
    life.checkpoint()
    restore_with(life, 700)
    assert life.end() == 1
    assert "a process had the limit RLIMIT_NOFILE of 800, and no more than 700 is allowed here" in life.said()
    restore_with(life, 900)
    assert life.look()["limits"]["RLIMIT_NOFILE"] == [600, 900]
    assert "limits can't be raised as far as before here: RLIMIT_NOFILE 900 (was 1000)" in life.said()
    assert life.end() == 0


@USERS
def test_files_that_are_read(life: Life) -> None:
    """If one has other contents that are as long, it is said."""
    sh(life, "mkdir data; for name in open mapped same; do echo old >data/$name; done; echo old >single")
    bind(life, "data", "/data")
    bind(life, "single", "/etc/single")
    code = "import mmap, os, runpy; keep = mmap.mmap(os.open('/data/mapped', os.O_RDONLY), 4, prot=mmap.PROT_READ)"
    code += "; runpy.run_path('/inside.py', run_name='__main__')"
    opened = 'exec python3 -I -c "$0" 4</data/open 5</data/same 6</etc/single'
    life.spec["process"]["args"] = ["sh", "-c", opened, code]
    start(life)
    life.checkpoint()
    life.restore()
    life.look()
    assert "changed since" not in life.said()
    move(life, "for name in data/open data/mapped single; do echo new >$name; done")
    life.look()
    said = next(line for line in life.said().splitlines() if "changed since" in line)
    assert sorted(said.rpartition(": ")[2].split()) == ["/data/mapped", "/data/open", "/etc/single"]
    assert life.end() == 0
