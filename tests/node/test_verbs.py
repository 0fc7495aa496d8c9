"""The verbs that the backend serves do to a created and to a restored container what they do by crun itself."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.engines.support import Engine
from tests.harness.cluster import wait_for
from tests.harness.cluster.suite import SUITE
from tests.node.support import SHIM, Life, Site, home
from tests.node.test_limits import groups

COMMAND = ["sh", "-c", "pwd; echo $A"]
PROCESS = {"cwd": "/usr", "args": COMMAND, "env": ["A=b", "PATH=/usr/bin"], "user": {"uid": 0, "gid": 0}}
Done = subprocess.CompletedProcess[str]


# Passes the terminal's master that comes to the socket $1 on to its output; the rest is who is to send it.
TAKE = """
import os, socket, subprocess, sys
place, *argv = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(place)
listener.listen()
sender = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
connection, _ = listener.accept()
[master], seen = socket.recv_fds(connection, 99, 1)[1], b""
try:
    while chunk := os.read(master, 999):
        seen += chunk
except OSError:  # EIO: nobody has it open any more
    pass
os.unlink(place)
print(seen.decode().strip(), sender.wait())
"""


class Crun(Life):
    """By crun without us."""

    def argv(self, *words: str) -> list[str]:
        manager = [] if self.user == "root" else ["--cgroup-manager=disabled"]
        return ["crun", "--root", f"{home(self.user)}/crun", *manager, *words]


@pytest.fixture(scope="module", params=["root", "alice"])
def user(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["crun", "created", "restored"])
def life(site: Site, user: str, request: pytest.FixtureRequest) -> Iterator[Life]:
    found = site.container(user, site.spec(user))
    if request.param == "crun":
        found = Crun(site, user, found.name, found.bundle, found.spec)
    try:
        with site.lending(user):
            found.run()
            found.look()
            if request.param == "restored":
                found.checkpoint()
                found.restore()
                found.look()
            yield found
            assert found.end() == 0
    finally:
        found.stop()


def call(life: Life, *words: str, check: bool = True) -> Done:
    return life.site.exec(life.argv(*words), life.user, check)


def refused(life: Life, *words: str, status: int = 1) -> str:
    """The only line that it says."""
    done = call(life, *words, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    return done.stderr


def test_exec(life: Life) -> None:
    def said(*words: str) -> str:
        return call(life, "exec", *words).stdout

    assert call(life, "exec", life.name, "sh", "-c", "exit 7", check=False).returncode == 7
    assert said(life.name, "cat", "/proc/1/comm") == "python3\n"
    assert said(life.name, "sh", "-c", "pwd; echo $TERM; tty || :") == "/\nxterm\nnot a tty\n"
    words = ("--cwd", "/usr", "--env", "X=1", "--env=TERM=y", life.name, "/bin/sh", "-c", "pwd; echo $X $TERM")
    assert said(*words) == "/usr\n1 y\n"
    assert "NoNewPrivs:\t1" in said("--no-new-privs", "--cap=CAP_KILL", life.name, "cat", "/proc/self/status")
    assert said("--user", "0:0", life.name, "id", "-u") == "0\n"
    if life.user == "root":
        assert said("--user=33:44", life.name, "sh", "-c", "id -u; id -g") == "33\n44\n"
    assert "no-such-command" in refused(life, "exec", life.name, "no-such-command", status=SUITE.crun_not_found)
    if not isinstance(life, Crun):  # which leaves out the container's own variables
        assert said("--env=X=1", life.name, "sh", "-c", "echo $X $TERM") == "1 xterm\n"
        assert "has no `exec --additional-gids`" in refused(life, "exec", "--additional-gids=5", life.name, "id")


def test_exec_of_a_process(life: Life) -> None:
    file = f"{life.bundle}/process.json"
    life.site.cluster.exec(life.site.node, ["tee", file], life.user, input=json.dumps(PROCESS))
    assert call(life, "exec", "--process", file, life.name).stdout == "/usr\nb\n"


def test_exec_with_a_descriptor(life: Life) -> None:
    line = shlex.join(life.argv("exec", "--preserve-fds=1", life.name, "sh", "-c", "cat <&3"))
    assert life.site.exec(["sh", "-c", f"{line} 3</etc/hostname"], life.user).stdout == f"{life.site.node}\n"


def test_exec_on_a_terminal_that_is_sent(life: Life) -> None:
    assert take(life, "exec", "--tty", life.name, "tty") == "/dev/pts/0 0\n"


def test_run_on_a_terminal_that_is_sent(site: Site, user: str) -> None:
    spec = site.spec(user)
    spec["process"] |= {"terminal": True, "args": ["tty"]}
    life = site.container(user, spec)
    assert take(life, "run", "--bundle", life.bundle, life.name) == "/dev/pts/0 0\n"
    assert call(life, "list", "--quiet").stdout == ""


def take(life: Life, verb: str, *words: str) -> str:
    """What is seen on the terminal that it sends, and its exit status."""
    place = f"{life.bundle}/console"
    argv = ["python3", "-I", "-c", TAKE, place, *life.argv(verb, "--console-socket", place, *words)]
    return life.site.exec(argv, life.user).stdout


def test_exec_on_a_terminal(life: Life) -> None:
    engine = Engine(life.site.cluster, tuple(life.argv()))
    if life.user != "root":
        engine.words = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", *engine.words)
    with engine.terminal("exec", "--tty", life.name, "sh", "-c", "tty; read -r x; echo got-$x") as terminal:
        terminal.wait_for("/dev/pts/")
        terminal.type("this\n")
        terminal.wait_for("got-this")


def test_exec_in_the_background(life: Life) -> None:
    file = f"{home(life.user)}/exec.pid"
    line = " ".join(life.argv("exec", "--detach", "--pid-file", file, life.name, "sleep", "77"))
    life.site.exec(["sh", "-c", f"{line} </dev/null >/dev/null 2>&1"], life.user)
    pid = life.site.exec(["cat", file]).stdout
    assert life.site.exec(["cat", f"/proc/{pid}/comm"]).stdout == "sleep\n"
    if isinstance(life, Crun) and life.user != "root":
        assert "not using cgroups" in refused(life, "ps", life.name, status=255)
    else:
        said = [line.split(maxsplit=1) for line in call(life, "ps", life.name).stdout.splitlines()]
        assert [words[0] for words in said] == ["PID", str(life.state()["pid"]), pid]
        assert life.user == "root" or said[2][1] == "sleep 77"  # crun has the numbers only
        assert json.loads(call(life, "ps", "--format=json", life.name).stdout) == [life.state()["pid"], int(pid)]
    life.site.exec(["kill", pid])
    wait_for(lambda: not life.site.exec(["ls", f"/proc/{pid}/exe"], check=False).stdout, 10, "its end")


def test_list(life: Life) -> None:
    assert call(life, "list", "--quiet").stdout == f"{life.name}\n"
    assert call(life, "list").stdout.splitlines()[1].split()[:3] == [life.name, str(life.state()["pid"]), "running"]
    listed = json.loads(call(life, "list", "--format", "json").stdout)
    assert [(one["id"], one["status"], one["bundle"]) for one in listed] == [(life.name, "running", life.bundle)]


def test_limits_and_pause(life: Life) -> None:
    """Of a control group, which only a container of root's has."""
    if life.user != "root":
        assert "pids.max" in refused(life, "update", "--pids-limit=44", life.name)
        assert "without a cgroup" in refused(life, "pause", life.name)
        return
    file = f"{life.bundle}/resources.json"
    life.site.cluster.exec(life.site.node, ["tee", file], "root", input=json.dumps({"pids": {"limit": 33}}))
    for words, wanted in ((("--pids-limit=44",), "44"), (("--resources", file), "33")):
        call(life, "update", *words, life.name)
        assert groups(life)["pids.max"] == ["", wanted]
    call(life, "pause", life.name)
    assert life.state()["status"] == "paused"
    call(life, "resume", life.name)
    assert life.state()["status"] == "running"


def test_what_is_refused(life: Life) -> None:
    if not isinstance(life, Crun):
        assert "has no `events`" in refused(life, "events", "--stats", life.name)
    assert "stopped" in refused(life, "delete", life.name)
    assert refused(life, "start", life.name)
    assert life.state()["status"] == "running"


def test_stopped_after_a_restore(site: Site, user: str) -> None:
    """One that was left to whoever restored it, of a user's too."""
    spec = site.spec(user)
    spec["process"]["args"] = ["sleep", "1000"]
    life = site.container(user, spec)
    images = ("--image-path", life.images)

    def detached(*words: str) -> None:
        life.site.exec(["sh", "-c", f"{shlex.join(life.argv(*words))} </dev/null >/dev/null 2>&1"], user)

    try:
        with site.lending(user):
            detached("run", "--detach", "--bundle", life.bundle, life.name)
            call(life, "checkpoint", *images, life.name)
            detached("restore", "--detach", *images, "--bundle", life.bundle, life.name)
            assert life.state()["status"] == "running"
            call(life, "kill", life.name, "KILL")
            wait_for(lambda: life.state()["status"] == "stopped", 10, "its end")
            assert refused(life, "kill", life.name)
            assert refused(life, "exec", life.name, "true")
            call(life, "delete", life.name)
            assert life.name in refused(life, "state", life.name)
    finally:
        life.stop()


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_spec_with_own_ids(site: Site, name: str) -> None:
    directory, number = f"{home(name)}/spec", {"alice": "1000", "bob": "1001"}[name]
    site.exec(["mkdir", directory], name)
    try:
        site.exec([SHIM, "spec", "--keep-id", "--bundle", directory], name)
        spec = json.loads(site.exec(["cat", f"{directory}/config.json"], name).stdout)
    finally:
        site.exec(["rm", "-r", directory])
    ids = ["id", "-u"], ["id", "-g"], ["cat", "/proc/self/uid_map", "/proc/self/gid_map"]
    spec["root"] = {"path": f"/home/{name}/base/rootfs"}
    spec["process"] |= {"terminal": False, "args": ["sh", "-c", "; ".join(map(shlex.join, ids))]}
    life = site.container(name, spec)
    done = site.exec(life.argv("run", "--bundle", life.bundle, life.name), name)
    assert done.stdout.split() == [number, number, *[number, number, "1"] * 2]


def test_spec_and_features(site: Site, user: str) -> None:
    directory = f"{home(user)}/spec"
    words = [] if user == "root" else ["--rootless"]
    site.exec(["mkdir", directory], user)
    try:
        site.exec([SHIM, "spec", "--bundle", directory, *words], user)
        spec = json.loads(site.exec(["cat", f"{directory}/config.json"], user).stdout)
        site.exec(["sh", "-c", f"cd {directory} && mv config.json ours && crun spec {' '.join(words)}"], user)
        assert spec == json.loads(site.exec(["cat", f"{directory}/config.json"], user).stdout)
        assert ({"type": "user"} in spec["linux"]["namespaces"]) == (user != "root")
        assert site.exec([SHIM, "spec", "--bundle", directory], user, check=False).returncode != 0
    finally:
        site.exec(["rm", "-r", directory])
    features = json.loads(site.exec([SHIM, "features"], user).stdout)
    assert features["annotations"]["oci-criu-shim.checkpoint.enabled"] == "true"
    assert "poststop" in features["hooks"]
    assert {"oci-criu-shim.", "org.criu.config"} <= set(features["potentiallyUnsafeConfigAnnotations"])
