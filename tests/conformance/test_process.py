"""config.md, "Process": https://github.com/opencontainers/runtime-spec/blob/main/config.md; and the verb `run`."""

from __future__ import annotations

import array
import json
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime import TIMEOUT, Bundle, Runtime

ARGS = ["", "a b", "new\nline", "é", "'\"\\$HOME`", "--root", "--", "*"]
ENV = {"PATH": "/usr/bin:/bin", "EMPTY": "", "EQUALS": "a=b=c", "LINES": "a\nb", "HOME": "/elsewhere"}
TELL = r"""
import json, os, resource, socket, sys
umask = os.umask(0)
env = open("/proc/self/environ").read()  # as it was given: Python adds to its own
print(json.dumps({
    "args": sys.argv[1:], "env": dict(entry.split("=", 1) for entry in env.split("\0")[:-1]),
    "cwd": os.getcwd(), "hostname": socket.gethostname(),
    "user": [os.getuid(), os.getgid(), umask], "groups": sorted(set(os.getgroups()) - {65534, os.getgid()}),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
}))
"""


def test_process(bundle: Bundle) -> None:
    """config.md#process, #user, #hostname: each property as the program finds it, and nothing of the runtime's own."""
    root = bundle.runtime.is_root
    process = bundle.config["process"]
    process["env"] = [f"{name}={value}" for name, value in ENV.items()]
    process["cwd"] = "/usr/lib"
    process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [7, 8]} if root else {"uid": 0, "gid": 0}
    process["user"]["umask"] = 0o27
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    bundle.config["hostname"] = "conformance"
    bundle.args("python3", "-IS", "-c", TELL, *ARGS).save()
    done = bundle.runtime.call("run", "--bundle", bundle.inside, bundle.name, prefix=("env", "LEAKED=yes"))
    assert json.loads(done.ok().out) == {
        "args": ARGS,
        "env": ENV,
        "cwd": "/usr/lib",
        "hostname": "conformance",
        "user": [1000, 1001, 0o27] if root else [0, 0, 0o27],
        "groups": [7, 8] if root else [],
        "files": [100, 200],
    }


def test_capabilities(bundle: Bundle) -> None:
    """config.md#process: `capabilities` and `noNewPrivileges`."""
    process = bundle.config["process"]
    process["noNewPrivileges"] = True
    process["capabilities"] = {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")}
    done = bundle.script("grep -E 'NoNewPrivs|Cap(Prm|Bnd|Amb)' /proc/self/status").run()
    kill, none = f"{1 << 5:016x}", "0" * 16
    assert done.ok().out.split() == ["CapPrm:", kill, "CapBnd:", kill, "CapAmb:", none, "NoNewPrivs:", "1"]


def test_readonly_root(bundle: Bundle) -> None:
    """config.md#root: `readonly` root file system."""
    bundle.config["root"]["readonly"] = True
    done = bundle.script("echo x >/file && echo written").run()
    assert done.status and not done.out


def test_status_of_run(bundle: Bundle) -> None:
    """`run` of runc and crun ends with the program's status; the container is gone, and its id free."""
    for status in (0, 7, 255):
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


def test_program_that_cannot_run(bundle: Bundle) -> None:
    """config.md#process: an `args` that can't be executed is an error, at the latest when it is to run."""
    for program in ("/nonexistent", "nonexistent", "/etc/passwd"):
        done = bundle.args(program).run()
        assert done.status in (1, 126, 127), program
        assert done.err.strip(), program
    assert bundle.runtime.status(bundle.name) == "none"


def test_run_takes_an_id(bundle: Bundle) -> None:
    """runtime.md#create: `run` creates, so that an id that is taken is an error."""
    bundle.create().ok()
    before = bundle.state()
    bundle.run().refused()
    assert bundle.state() == before


def test_run_detached(bundle: Bundle) -> None:
    """--detach of runc and crun: run returns once the program runs, and leaves the rest to the caller."""
    pid_file = bundle.runtime.pid_file(bundle.name)
    bundle.script("echo ran >/case/ran; exec sleep 1000")
    bundle.run("--detach", "--pid-file", bundle.runtime.inside(pid_file)).ok()
    assert bundle.marked("ran") == "ran\n"
    state = bundle.state()
    assert (state["status"], str(state["pid"])) == ("running", pid_file.read_text())
    bundle.end()
    bundle.delete().ok()


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
    done = bundle.runtime.call(verb, "--bundle", bundle.inside, "--preserve-fds", "2", bundle.name, prefix=opened)
    done.ok()
    if verb == "create":
        bundle.start().ok()
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
        bundle.start().ok()
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
