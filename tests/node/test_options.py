"""Options of a command line, by what they do to a container, or as crun has them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest

from tests.node.support import SHIM, Life, Site, home

SETTINGS = "/etc/oci-criu-shim/config.toml"
RUNC = "/usr/sbin/runc"

USERS = pytest.mark.parametrize("user", ["root", "alice"])
# A connection to itself, and a lock of each kind; for each line that it reads, whether it is connected still.
HOLD = """
import fcntl, json, socket, sys
user = sys.argv[1]
listener = socket.create_server(("127.0.0.1", 0))
here = socket.create_connection(listener.getsockname())
there, _ = listener.accept()
whole, part = open(f"/tmp/{user}-whole", "w"), open(f"/tmp/{user}-part", "w")
fcntl.flock(whole, fcntl.LOCK_EX)
fcntl.lockf(part, fcntl.LOCK_EX)
for line in sys.stdin:
    try:
        here.send(b"x")
        found = there.recv(1) == b"x"
    except OSError:
        found = False
    print(json.dumps({"connected": found}), flush=True)
"""
LOCKED = """
import fcntl, sys
for name, take in (("whole", fcntl.flock), ("part", fcntl.lockf)):
    try:
        take(open(f"/tmp/{sys.argv[1]}-{name}", "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
        print(name, "is free")
    except BlockingIOError:
        print(name, "is locked")
"""


@USERS
def test_locks_and_connections(site: Site, user: str) -> None:
    """Locks are held across a restore; it closes connections if that is asked for. A user's are kept without asking."""
    spec = site.spec(user)
    spec["process"]["args"] = ["python3", "-I", "-c", HOLD, user]
    life = site.container(user, spec)
    is_root = user == "root"

    def locked() -> str:
        return site.exec(life.argv("exec", life.name, "python3", "-I", "-c", LOCKED, user), user).stdout

    try:
        with site.lending(user):
            life.run()
            assert life.look() == {"connected": True}
            assert locked() == "whole is locked\npart is locked\n"
            life.checkpoint("--file-locks", *(["--tcp-established"] if is_root else []))
            life.restore("--file-locks", *(["--tcp-close"] if is_root else []))
            assert life.look() == {"connected": not is_root}
            assert locked() == "whole is locked\npart is locked\n"
            assert life.end() == 0
    finally:
        life.stop()


CONFIGURED = "/etc/criu/one.conf"


def configure(life: Life, text: str) -> None:
    script = f"mkdir -p /etc/criu; cat >{CONFIGURED}"
    life.site.cluster.exec(life.site.node, ["sh", "-c", script], "root", input=text)


def test_criu_is_configured(site: Site) -> None:
    """By an annotation's file, as with crun and runc. What can't be had is refused by name."""
    spec = site.spec("root")
    spec["annotations"] = {"org.criu.config": CONFIGURED}
    spec["process"]["args"] = ["python3", "-I", "-c", HOLD, "root"]
    life = site.container("root", spec)
    configure(life, "tcp-established\naction-script /tmp/x\n")
    try:
        life.run()
        life.look()
        refused = life.checkpoint(check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert f"{CONFIGURED}, line 2: CRIU's option action-script can't be had here" in refused.stderr
        assert life.look() == {"connected": True}
        configure(life, "tcp-established\nverbosity 4\nlog-file /tmp/criu.log\n")
        life.checkpoint()
        assert "Dumping finished successfully" in site.exec(["cat", "/tmp/criu.log"]).stdout
        life.restore()
        assert life.look() == {"connected": True}
        assert "Restore finished successfully" in site.exec(["cat", "/tmp/criu.log"]).stdout
        assert life.end() == 0
    finally:
        life.stop()
        site.exec(["rm", "-r", "/etc/criu"])


def test_a_user_does_not_configure_criu(site: Site) -> None:
    """Nothing is kept quiet about, and nothing of it gets to a dump."""
    spec = site.spec("alice")
    spec["annotations"] = {"org.criu.config": CONFIGURED}
    life = site.container("alice", spec)
    line = f"{life.bundle}/config.json: the annotation org.criu.config is ignored: it is for root's containers only"
    try:
        with site.lending("alice"):
            life.run()
            life.look()
            assert line in life.said()
            assert line in life.checkpoint().stderr
            life.restore()
            life.look()
            assert life.end() == 0
    finally:
        life.stop()


@USERS
def test_success_is_silent(site: Site, user: str) -> None:
    """As with crun and runc: engines show what a runtime says. --debug tells."""
    life = site.container(user, site.spec(user))
    try:
        with site.lending(user):
            life.run()
            life.look()
            assert life.checkpoint("--leave-running").stderr == ""
            life.globals = ("--debug",)
            assert f"checkpointed {life.name} to {life.images} (" in life.checkpoint().stderr
            life.globals = ()
            life.restore()
            life.look()
            assert life.end() == 0
            assert life.errors[-1].read_text() == ""
    finally:
        life.stop()


@USERS
def test_ways_to_create_one(site: Site, user: str) -> None:
    """Its root is not pivoted, its keyring is its caller's; that is no matter to a checkpoint."""
    life = site.container(user, site.spec(user))
    try:
        with site.lending(user):
            life.run("--no-pivot", "--no-new-keyring")
            before = life.look()
            life.checkpoint()
            life.restore("--no-pivot")
            assert life.look()["mounts"] == before["mounts"]
            assert life.end() == 0
    finally:
        life.stop()


@USERS
@pytest.mark.parametrize("option", ["--cgroup-manager=cgroupfs", "--cgroup-manager=disabled", "--systemd-cgroup"])
def test_control_groups(site: Site, user: str, option: str) -> None:
    """As with crun: by its own hand, none, or by systemd, which is not there. A user's checkpointed one has none."""
    spec = site.spec(user)
    spec["process"] |= {"args": ["cat", "/proc/self/cgroup"], "env": ["PATH=/usr/bin"]}
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "cgroup"]
    life = site.container(user, spec)

    def said(program: str) -> tuple[int, list[str], str]:
        line = shlex.join([program, f"--root={home(user)}/run", option, "run", f"--bundle={life.bundle}", life.name])
        done = site.exec(["sh", "-c", line], user, check=False)
        return done.returncode, done.stdout.splitlines(), done.stderr

    assert said(SHIM) == said("crun")


@pytest.fixture(params=["setting", "annotation", "path"])
def with_runc(site: Site, user: str, request: pytest.FixtureRequest) -> Iterator[Life]:
    """A container of runc's, by the site's choice, the bundle's, or the command line's."""
    spec = site.spec(user)
    if user != "root":
        mapping = [{"containerID": 0, "hostID": 1000, "size": 1}]
        spec["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    if request.param == "annotation":
        spec["annotations"] = {"oci-criu-shim.backend": "runc"}
    life = site.container(user, spec)
    if request.param == "path":
        life.globals = (f"--backend={RUNC}",)
    site.exec(["cp", SETTINGS, "/tmp/settings"])
    try:
        if request.param == "setting":
            site.exec(["sh", "-c", f"echo 'backend = \"runc\"' >>{SETTINGS}"])
        with site.lending(user):
            yield life
    finally:
        life.stop()
        site.exec(["mv", "/tmp/settings", SETTINGS])


@USERS
def test_backend_of_choice(with_runc: Life) -> None:
    """What is asked later finds it by the container; one that is restored is crun's."""
    life, site = with_runc, with_runc.site
    life.run()
    before = life.look()["process"]
    program = RUNC if life.globals else "runc"
    life.globals = ()
    at = f"{home(life.user)}/run/.{program.replace('/', ':')}/{life.name}"
    assert site.exec(["ls", at]).stdout == "state.json\n"
    events = site.exec(life.argv("events", "--stats", life.name), life.user, check=life.user == "root")
    if life.user == "root":
        stats = json.loads(events.stdout)
        assert (stats["type"], stats["id"], stats["data"]["pids"]["current"]) == ("stats", life.name, 1)
    life.checkpoint()
    life.restore()
    assert life.look()["process"] == before
    assert life.end() == 0
