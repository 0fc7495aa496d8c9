"""What the privileged worker takes for a request: one form, and nothing else; and for how long it waits for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config
from oci_criu_shim.errors import Killed, ShimError
from oci_criu_shim.host import cgroups, wire
from oci_criu_shim.privileged import dump, target, worker
from oci_criu_shim.privileged.report import Report
from tests.harness.cluster.settings import REPOSITORY

GOOD: dict[str, Any] = {"op": "dump", "leave_running": True}


@pytest.fixture
def fds(tmp_path: Path) -> Iterator[list[int]]:
    opened = [os.open("/dev/null", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize("leave_running", [True, False])
def test_taken(fds: list[int], leave_running: bool) -> None:
    assert worker.check({**GOOD, "leave_running": leave_running}, fds) == {"leave_running": leave_running}


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"op": "dump"},
        {"leave_running": True},
        {**GOOD, "op": "restore"},
        {**GOOD, "op": ["dump"]},
        {**GOOD, "leave_running": 1},
        {**GOOD, "leave_running": "true"},
        {**GOOD, "leave_running": None},
        {**GOOD, "pid": 1},
        {**GOOD, "options": {"shell_job": True}},
    ],
)
def test_refused(fds: list[int], message: dict[str, Any]) -> None:
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check(message, fds)


EVERYBODYS: dict[str, Any] = {
    **GOOD,
    "track_mem": True,
    "incremental": True,
    "seal": "0" * 128,
    "tcp_close": True,
    "inner": ["/a"],
}
ROOTS: dict[str, Any] = {
    **EVERYBODYS,
    **{"tcp_established": True, "ext_unix_sk": True, "shell_job": False},
    **{"network_lock": "NFTABLES", "network": "joined", "for": "runc"},
    **{"ghost_limit": 1 << 20, "timeout": 20, "log_level": 4},
    **{"lazy_pages": True, "page_server": ["host", 1]},
    "pre_dump": True,
}


def test_a_user_can_not_ask_for_connections(fds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept in a network that is the user's, whatever is asked for."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check({**GOOD, "tcp_established": True}, fds)


def test_users_options(fds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert worker.check(EVERYBODYS, fds) == {name: value for name, value in EVERYBODYS.items() if name != "op"}


def test_roots_options(fds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert worker.check(ROOTS, fds) == {name: value for name, value in ROOTS.items() if name != "op"}


@pytest.mark.parametrize(
    "change",
    [
        *({"ghost_limit": 1 << 32}, {"ghost_limit": True}, {"timeout": -1}, {"timeout": "1"}, {"log_level": 5}),
        *({"tcp_established": 1}, {"network_lock": "nftables"}, {"network": None}, {"for": "youki"}),
        *({"external": []}, {"incremental": "../other"}, {"inner": "/a"}, {"inner": ["a"]}, {"inner": [1]}),
    ],
)
def test_roots_options_are_a_closed_set(
    fds: list[int], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check({**ROOTS, **change}, fds)


@pytest.mark.parametrize("name", [name for name in ROOTS if name not in EVERYBODYS])
def test_a_user_has_none_of_roots_options(fds: list[int], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check({**GOOD, name: ROOTS[name]}, fds)


@pytest.mark.parametrize("seal", ["", "0" * 127, "0" * 129, "G" + "0" * 127, 0, None])
def test_a_seal_has_one_form(fds: list[int], seal: object) -> None:
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check({**EVERYBODYS, "seal": seal}, fds)


def test_an_increment_has_a_user_s_memory_tracked(fds: list[int]) -> None:
    with pytest.raises(ShimError, match="no track_mem"):
        worker.check({**EVERYBODYS, "track_mem": False}, fds)


def test_increments_are_the_site_s_to_allow(fds: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text("increments = false\n")
    monkeypatch.setattr(config.increments, "__defaults__", (str(settings),))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ShimError, match="increments are off in"):
        worker.check(EVERYBODYS, fds)
    assert worker.check(GOOD, fds)


@pytest.mark.parametrize("other", [{"track_mem": True}, {"page_server": ["host", 1]}, {"pre_dump": True}])
def test_memory_goes_to_one_place(fds: list[int], other: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And a user's is not sealed if it isn't CRIU that wrote it."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert worker.check({**GOOD, "pages": True}, fds) == {"leave_running": True, "pages": True}
    with pytest.raises(ShimError, match="can't be tracked, or go to two places"):
        worker.check({**GOOD, "pages": True, **other}, fds)


@pytest.mark.parametrize(("answer", "taken"), [("pages", True), ("files", False), ("commit", False)])
def test_who_asks_says_whether_it_takes_the_memory(answer: str, taken: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pages, criu = socket.socketpair()
    with ours, theirs, pages, criu:
        wire.send(theirs, {"op": answer})
        asker = worker.Conversation(worker.Client(ours), Report(False), -1)
        assert asker.takes((4, 2, 1), pages) is taken
        message, received = wire.receive(theirs)
        assert message == {"event": "ready", "criu": [4, 2, 1]}
        with socket.socket(fileno=received[0]) as got:
            criu.send(b"memory")
            assert got.recv(6) == b"memory"


def test_a_directory_to_work_in(fds: list[int], tmp_path: Path) -> None:
    assert worker.check(GOOD, [*fds, fds[1]]) == {"leave_running": True}
    with pytest.raises(ShimError, match="no image directory"):
        worker.check(GOOD, [*fds, fds[0]])


@pytest.mark.parametrize("count", [0, 1, 4])
def test_number_of_descriptors(fds: list[int], count: int) -> None:
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check(GOOD, (fds * 2)[:count])


def test_images_must_be_a_directory(fds: list[int]) -> None:
    with pytest.raises(ShimError, match="no image directory"):
        worker.check(GOOD, fds[::-1])


# Connects to $1, sends what is in $2, says so, and ends when its input does; another process has the connection, too.
CONNECT = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect(sys.argv[1])
if sys.argv[2]:
    connection.send(sys.argv[2].encode())
connection.set_inheritable(True)
heir = os.posix_spawn("/bin/sleep", ["sleep", "600"], os.environ, file_actions=[(os.POSIX_SPAWN_CLOSE, 1)])
print(heir, flush=True)
sys.stdin.read()
"""


@contextmanager
def connected(directory: Path, message: str = "") -> Iterator[tuple[worker.Client, subprocess.Popen[str]]]:
    """A client, and the process that has connected, whose end of the connection is open for longer than it lives."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / "socket"))
        listener.listen()
        argv = [sys.executable, "-c", CONNECT, str(directory / "socket"), message]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            heir = int(process.stdout.readline())
            connection, _ = listener.accept()
            try:
                with connection:
                    client = worker.Client(connection)
                    yield client, process
                    os.close(client.process)
            finally:
                os.kill(heir, 9)


def test_who_asks_has_ended(tmp_path: Path) -> None:
    with connected(tmp_path) as (client, process):
        process.communicate()
        with pytest.raises(Killed, match="the process that asked for the dump has ended"):
            client.receive()


def test_what_it_had_said_before_it_ended(tmp_path: Path) -> None:
    with connected(tmp_path, json.dumps(GOOD)) as (client, process):
        process.communicate()
        assert client.receive() == (GOOD, [])


def test_who_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0)
    with connected(tmp_path) as (client, _), pytest.raises(ShimError, match="nothing was heard for 0 s"):
        client.receive()


def test_it_has_ended_by_the_time_of_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container runs on: a dump's `commit` raises."""

    def dumped(*arguments: Any) -> int:
        process.communicate()
        commit = arguments[-1].commit
        with pytest.raises(Killed, match="has ended"):
            commit({})
        return 7

    monkeypatch.setattr(dump, "dump", dumped)
    monkeypatch.setattr(target, "Target", lambda *_: None)
    monkeypatch.setattr(worker, "check", lambda *_: {})
    receive = wire.receive
    monkeypatch.setattr(wire, "receive", lambda connection: (receive(connection)[0], [-1, -1]))
    with connected(tmp_path, "{}") as (client, process):
        assert worker._serve(client, None, Report(False), None) == 7  # type: ignore[arg-type]


def test_a_deep_message() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(b"[" * wire.LIMIT)
        with pytest.raises(ShimError, match="not JSON"):
            wire.receive(theirs)


def test_a_long_message() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(ShimError, match="longer than agreed"):
        wire.send(ours, {"external": "x" * wire.LIMIT})


@pytest.mark.parametrize(
    "error",
    [ShimError("\udcff" * wire.LIMIT, "\udcff" * wire.LIMIT), Killed("x"), OSError(28, "full", "\udcff" * wire.LIMIT)],
)
def test_what_is_told_of_a_failure_fits(error: ShimError | OSError) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        wire.send(ours, worker.failed(error))
        answer, _ = wire.receive(theirs)
    assert answer["event"] == "failed" and answer["killed"] == isinstance(error, Killed)


OF_VERSION_1, OF_VERSION_2 = "freezer:/slurm/job_7", ":/slurm.scope/s7HNM8KNWEHA00"


@pytest.mark.parametrize(
    ("group", "cgroup", "fits"),
    [
        (OF_VERSION_1, "6:freezer:/slurm/job_7/step_0\n0::/\n", True),
        (OF_VERSION_1, "6:freezer:/slurm/job_7\n", True),
        (OF_VERSION_1, "6:freezer:/slurm/job_77\n", False),
        (OF_VERSION_1, "6:freezer:/other/slurm/job_7\n", False),
        (OF_VERSION_1, "6:freezer:/slurm/job_8/slurm/job_7\n", False),
        (OF_VERSION_1, "6:freezer:/\n5:memory:/slurm/job_7\n0::/slurm/job_7\n", False),
        (OF_VERSION_1, "6:freezer:/x\r6:freezer:/slurm/job_7\n", False),
        (OF_VERSION_1, "", False),
        (OF_VERSION_2, "0::/slurm.scope/s7HNM8KNWEHA00/step_0/user/task_0\n", True),
        (OF_VERSION_2, "0::/slurm.scope/s7HNM8KNWEHA01/step_0/user/task_0\n", False),
        (OF_VERSION_2, "0::/slurm.scope/s7HNM8KNWEHA001/step_0/user/task_0\n", False),
        (OF_VERSION_2, "0::/slurm.scope/job_8/step_0/user/slurm.scope/s7HNM8KNWEHA00/step_0\n", False),
        (OF_VERSION_2, "0::/user.slice/slurm.scope/s7HNM8KNWEHA00/step_0/user/task_0\n", False),
        (OF_VERSION_2, "1:name=systemd:/slurm.scope/s7HNM8KNWEHA00/step_0\n0::/\n", False),
    ],
)
def test_the_jobs_own_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, cgroup: str, fits: bool
) -> None:
    (tmp_path / "cgroup").write_bytes(cgroup.encode())
    of = cgroups.of
    monkeypatch.setattr(cgroups, "of", lambda _: of(f"..{tmp_path}"))
    init = target.Target.__new__(target.Target)
    init.pid = 1
    if fits:
        return init._check_job(7, group)
    with pytest.raises(ShimError, match="not one of job 7"):
        init._check_job(7, group)


def test_arguments() -> None:
    """The entry takes what the helper gives."""
    text = (REPOSITORY / "src/worker.py").read_text().replace("sys.exit(worker.main(", "print((")
    argv = [sys.executable, "-I", "-S", "-c", text.replace("__file__", repr(str(REPOSITORY / "src/worker.py")))]
    done = [
        subprocess.run([*argv, *words], capture_output=True, text=True, check=True).stdout
        for words in ((), ("7", "freezer:/job_7"), ("7", ":/job_7", "report"))
    ]
    assert done == ["(None, False)\n", "((7, 'freezer:/job_7'), False)\n", "((7, ':/job_7'), True)\n"]
