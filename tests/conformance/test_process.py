"""config.md, "Process": https://github.com/opencontainers/runtime-spec/blob/main/config.md; and the verb `run`."""

from __future__ import annotations

import array
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime import TIMEOUT, Bundle, Runtime

ARGS = ["", "a b", "new\nline", "é", "'\"\\$HOME`", "--root", "--", "*"]


def test_args(bundle: Bundle) -> None:
    """config.md#process: `args` are execvp's argv, untouched."""
    bundle.args("python3", "-IS", "-c", "import sys; print(sys.argv[1:])", *ARGS)
    assert bundle.run().ok().out == f"{ARGS}\n"


def test_env(bundle: Bundle) -> None:
    """config.md#process: `env` is the environment, and nothing of the runtime's own is in it."""
    given = {"PATH": "/usr/bin:/bin", "EMPTY": "", "EQUALS": "a=b=c", "LINES": "a\nb", "HOME": "/elsewhere"}
    bundle.config["process"]["env"] = [f"{name}={value}" for name, value in given.items()]
    bundle.args("env", "--null").save()
    done = bundle.runtime.call("run", "--bundle", bundle.inside, bundle.name, prefix=("env", "LEAKED=yes"))
    assert set(done.ok().out.split("\0")) - {""} == {f"{name}={value}" for name, value in given.items()}


def test_cwd(bundle: Bundle) -> None:
    """config.md#process: `cwd` is set before the program runs."""
    bundle.config["process"]["cwd"] = "/usr/lib"
    assert bundle.args("pwd").run().ok().out == "/usr/lib\n"


def test_user(bundle: Bundle) -> None:
    """config.md#user: `uid`, `gid`, `umask` and `additionalGids` as the container's user namespace has them."""
    user = {"uid": 1000, "gid": 1001, "additionalGids": [7, 8]} if bundle.runtime.is_root else {"uid": 0, "gid": 0}
    bundle.config["process"]["user"] = {**user, "umask": 0o27}
    bundle.script("umask; id -u; id -g; id -G")
    groups = "1001 7 8" if bundle.runtime.is_root else "0"
    said = bundle.run().ok().out.replace(" 65534", "")  # a user's own groups can't be dropped without a mapping
    assert said == f"0027\n{user['uid']}\n{user['gid']}\n{groups}\n"


def test_limits(bundle: Bundle) -> None:
    """config.md#process: `rlimits`, `noNewPrivileges` and `capabilities`."""
    process = bundle.config["process"]
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    process["noNewPrivileges"] = True
    process["capabilities"] = {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")}
    done = bundle.script("ulimit -Sn; ulimit -Hn; grep -E 'NoNewPrivs|Cap(Prm|Bnd|Amb)' /proc/self/status").run()
    kill, none = f"{1 << 5:016x}", "0" * 16
    assert done.ok().out.split() == [
        *("100", "200", "CapPrm:", kill, "CapBnd:", kill, "CapAmb:", none, "NoNewPrivs:", "1")
    ]


def test_hostname(bundle: Bundle) -> None:
    """config.md#hostname: as seen by processes of the container."""
    bundle.config["hostname"] = "conformance"
    assert bundle.args("hostname").run().ok().out == "conformance\n"


def test_readonly_root(bundle: Bundle) -> None:
    """config.md#root: `readonly` root file system."""
    bundle.config["root"]["readonly"] = True
    done = bundle.script("echo x >/file && echo written").run()
    assert done.status and not done.out


@pytest.mark.parametrize("status", [0, 7, 255])
def test_status_of_run(bundle: Bundle, status: int) -> None:
    """`run` of runc and crun ends with the program's status; the container is gone."""
    assert bundle.script(f"exit {status}").run().status == status
    bundle.runtime.call("state", bundle.name).refused()


# "$@" is a command line of the runtime; $0 is its kill.
KILLED = '"$@" & until [ -e ready ]; do sleep 0.02; done; $0; wait $!'


@pytest.mark.parametrize(("name", "status"), [("KILL", 137), ("TERM", 143)])
def test_status_of_a_signal(bundle: Bundle, name: str, status: int) -> None:
    """`run` of runc and crun ends with 128 + N when signal N ended the program."""
    bundle.script("trap 'trap - TERM; exit 143' TERM; echo >/case/ready; while :; do sleep 0.02; done").save()
    kill = f"{bundle.runtime.program} --root {bundle.runtime.inside(bundle.runtime.root)} kill {bundle.name} {name}"
    prefix = ("sh", "-c", KILLED, kill)
    done = bundle.runtime.call("run", "--bundle", bundle.inside, bundle.name, prefix=prefix)
    assert done.status == status
    assert bundle.runtime.status(bundle.name) == "none"


@pytest.mark.parametrize("program", ["/nonexistent", "nonexistent", "/etc/passwd"])
def test_program_that_cannot_run(bundle: Bundle, program: str) -> None:
    """config.md#process: an `args` that can't be executed is an error, at the latest when it is to run."""
    done = bundle.args(program).run()
    assert done.status in (1, 126, 127)
    assert done.err.strip()
    assert bundle.runtime.status(bundle.name) == "none"


def test_run_takes_an_id(bundle: Bundle) -> None:
    """runtime.md#create: `run` creates, so that an id that is taken is an error."""
    bundle.create().ok()
    before = bundle.state()
    bundle.run().refused()
    assert bundle.state() == before


def test_run_detached(bundle: Bundle) -> None:
    """--detach of runc and crun: run returns once the program runs, and leaves the rest to the caller."""
    pid_file = bundle.mark("pid")
    bundle.script("echo ran >/case/ran; exec sleep 1000")
    bundle.run("--detach", "--pid-file", bundle.runtime.inside(pid_file)).ok()
    assert bundle.marked("ran") == "ran\n"
    state = bundle.state()
    assert (state["status"], str(state["pid"])) == ("running", pid_file.read_text())
    bundle.runtime.call("kill", bundle.name, "KILL").ok()
    bundle.runtime.wait_stopped(bundle.name)
    bundle.runtime.call("delete", bundle.name).ok()


def test_streams(bundle: Bundle) -> None:
    """glossary.md: the container process has the runtime's standard streams."""
    feed = ("sh", "-c", 'printf "one\\ntwo" | "$@"', "feed")
    bundle.script("cat; echo three >&2").save()
    done = bundle.runtime.call("run", "--bundle", bundle.inside, bundle.name, prefix=feed)
    assert done.ok().out == "one\ntwo"
    assert done.err == "three\n"


@pytest.mark.parametrize("verb", ["run", "create"])
def test_preserve_fds(bundle: Bundle, verb: str) -> None:
    """--preserve-fds of runc and crun: that many descriptors after the standard ones are passed on, and no more."""
    opened = ("sh", "-c", 'exec "$@" 3>third 4>fourth 5>fifth', "open")
    bundle.script("echo three >&3; echo four >&4; (echo five >&5) 2>/dev/null; echo end >/case/end").save()
    done = bundle.runtime.call(
        verb, "--bundle", bundle.inside, "--preserve-fds", "2", bundle.name, prefix=opened
    )
    done.ok()
    if verb == "create":
        bundle.runtime.call("start", bundle.name).ok()
    assert bundle.marked("end") == "end\n"
    assert [bundle.mark(name).read_text() for name in ("third", "fourth", "fifth")] == ["three\n", "four\n", ""]


@pytest.fixture
def console(runtime: Runtime) -> Iterator[tuple[Path, socket.socket]]:
    """A listening socket, and its path on the host."""
    path = runtime.directory / "console"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        listener.listen()
        listener.settimeout(TIMEOUT)
        yield path, listener


def receive(listener: socket.socket) -> int:
    """The descriptor that a runtime sends."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(TIMEOUT)
        _, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    descriptors = array.array("i")
    descriptors.frombytes(control[0][2][:4])
    return descriptors[0]


def read(master: int, wanted: str) -> None:
    """Read what the terminal shows until it is `wanted`."""
    text = ""
    while text != wanted:
        assert wanted.startswith(text) and select.select([master], [], [], TIMEOUT)[0], text
        text += os.read(master, 1024).decode()


def test_console_socket(bundle: Bundle, console: tuple[Path, socket.socket]) -> None:
    """config.md#process: `terminal`; --console-socket of runc and crun gets its master side at create."""
    path, listener = console
    bundle.config["process"]["terminal"] = True
    bundle.config["process"]["consoleSize"] = {"height": 33, "width": 77}
    bundle.script("test -t 0 && test -t 1 && test -t 2 && stty size; read line; echo got $line; exec sleep 1000")
    bundle.create("", "--console-socket", bundle.runtime.inside(path)).ok()
    master = receive(listener)
    try:
        bundle.runtime.call("start", bundle.name).ok()
        read(master, "33 77\r\n")
        os.write(master, b"word\n")
        read(master, "word\r\ngot word\r\n")
    finally:
        os.close(master)


def test_terminal_without_a_socket(bundle: Bundle) -> None:
    """config.md#process: a terminal that nobody takes can't be applied: an error, and no container."""
    bundle.config["process"]["terminal"] = True
    bundle.create().refused()
    assert not bundle.runtime.names()
