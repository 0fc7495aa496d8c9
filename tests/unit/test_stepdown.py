"""What root has a child do that is a job's user: which verbs, for how long, and what is made of what it says."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim.cli import parse, stepdown
from oci_criu_shim.cli.verbs import GROUPS, VERBS
from oci_criu_shim.container import ownership
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process

Patch = pytest.MonkeyPatch

# In a program of its own, since it takes in what others leave. Nobody becomes another user here.
PROGRAM = """
import os, subprocess, sys, time
from oci_criu_shim.cli import stepdown
from oci_criu_shim.cli.invocation import Invocation
from oci_criu_shim.container.ownership import User
from oci_criu_shim.host import linux

def work(call):
    {work}

for name in ("setgroups", "setresgid", "setresuid"):
    setattr(os, name, lambda *_: None)
stepdown.SECONDS = {seconds}
call = Invocation("state", {{"debug": "true", "root": "/r", "backend": "/b"}}, {{}}, [])
call.log.path = "/l"
sys.exit(stepdown.carry_out(call, User(os.geteuid(), os.getegid()), work))
"""


def run(work: str, seconds: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """Have the lines `work` done."""
    text = PROGRAM.format(work=work.replace("\n", "\n    "), seconds=seconds)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", text]
    return subprocess.run(words, env=environment, check=False, capture_output=True, text=True, timeout=50, **options)


def test_what_it_says_and_how_it_ends() -> None:
    done = run("print('said')\nprint('told', file=sys.stderr)\nreturn 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "said\n", "told\n")
    assert run("os.execv('/bin/sh', ['sh', '-c', 'echo said; kill -KILL $$'])").returncode == 137


def test_nothing_is_roots() -> None:
    """But what it is told to do."""
    reader, writer = os.pipe()
    work = """
status = [line.split() for line in open("/proc/self/status")]
print(sorted(os.environ), os.getcwd(), oct(os.umask(0)), os.getsid(0) == os.getpid(), call.globals, call.log.path)
print([fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")])
print(["NoNewPrivs:", "1"] in status, os.readlink("/proc/self/fd/0"), sys.stdin.read())
return 0"""
    done = run(work, input="secret", pass_fds=[reader, writer], cwd="/usr")
    os.close(reader)
    os.close(writer)
    assert done.stdout.splitlines() == [
        "['LANG', 'PATH'] / 0o77 True {'debug': 'true', 'known only': ''} None",
        "[]",
        "True /dev/null ",
    ]


def test_it_is_not_waited_for_without_an_end() -> None:
    begin = time.monotonic()
    done = run("print('begun', flush=True)\nwhile True:\n    time.sleep(1)", seconds=0.5)
    assert done.stdout == "begun\n"
    assert "state in /r did not end in 0 s, and was ended" in done.stderr
    assert time.monotonic() - begin < 40


@pytest.mark.parametrize("ends", [True, False])
def test_nor_is_what_it_leaves_behind(ends: bool) -> None:
    """Whatever session that is in; it holds what was said, and is ended."""
    script = "setsid sh -c 'setsid sleep 4713 & echo $$ $!; exec sleep 4713' & sleep 1" + ("" if ends else "; wait")
    done = run(f"os.execv('/bin/sh', ['sh', '-c', {script!r}])", seconds=60 if ends else 3)
    left = list(map(int, done.stdout.split()))
    assert len(left) == 2
    assert [process.start_time(pid) for pid in left] == [None, None]
    assert done.returncode == (0 if ends else 1)


def test_what_was_there_before_is_not_ended() -> None:
    """As a job in the background of the shell that became us."""
    text = PROGRAM.format(work="return 0", seconds=60).replace("sys.exit(", "print(")
    text += "pid = int(sys.argv[1])\nprint(os.waitpid(pid, os.WNOHANG))\nos.kill(pid, 9)\n"
    script = 'sleep 4714 >/dev/null 2>&1 & exec "$0" -c "$1" $!'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["sh", "-c", script, sys.executable, text]
    done = subprocess.run(words, env=environment, check=False, capture_output=True, text=True, timeout=50)
    assert done.stdout.splitlines() == ["0", "(0, 0)"], done.stderr


def test_no_more_is_kept_of_it_than_fits() -> None:
    done = run("os.execv('/bin/sh', ['sh', '-c', 'yes 2>/dev/null; exec yes >&2 2>/dev/null'])", seconds=10)
    assert 0 < len(done.stdout) <= stepdown.LARGEST
    done = run("print('x' * (stepdown.LARGEST + 1))\nreturn 0")
    assert (done.returncode, len(done.stdout)) == (1, stepdown.LARGEST)


def test_nothing_that_a_terminal_obeys() -> None:
    done = run("sys.stdout.buffer.write('\\x1b]0;t\\x07a\\tb\\n\\u009b31m\\xe9\\r\\n'.encode() + b'\\xff')\nreturn 0")
    assert done.stdout == "?]0;t?a\tb\n?31m\xe9?\n\ufffd"


class Forked(Exception):
    """Instead of a child."""


def carried_out(verb: str, monkeypatch: Patch, *flags: str) -> None:
    def fork(_: object) -> int:
        raise Forked

    monkeypatch.setattr(process, "fork", fork)
    monkeypatch.setattr(process, "user_name", str)
    call: Any = SimpleNamespace(verb=verb, root="/run/oci-criu-shim/12", flag=lambda name: name in flags)
    stepdown.carry_out(call, ownership.User(1000, 1000), lambda _: 0)


@pytest.mark.parametrize("verb", [*VERBS, *GROUPS, "ckpt rm", "job checkpoint"])
def test_a_closed_set_of_verbs(verb: str, monkeypatch: Patch) -> None:
    if verb in ("state", "kill", "delete", "list", "ps", "pause", "resume"):
        with pytest.raises(Forked):
            carried_out(verb, monkeypatch)
    else:
        with pytest.raises(ShimError, match=f"{verb} is not for root in /run/oci-criu-shim/12") as caught:
            carried_out(verb, monkeypatch)
        assert "runuser --pty -u 1000" in caught.value.hint


def test_statistics_once(monkeypatch: Patch) -> None:
    """Else they have no end."""
    with pytest.raises(Forked):
        carried_out("events", monkeypatch, "stats")


@pytest.mark.parametrize(
    ("uid", "inside", "user", "by"),
    [(0, False, True, "child"), (0, False, False, "us"), (0, True, True, "us"), (1000, False, True, "us")],
)
def test_who_steps_down(monkeypatch: Patch, uid: int, inside: bool, user: bool, by: str) -> None:
    """The node's root, in a user's directory; before anything of that is read."""
    seen = []

    def user_of(root: str) -> ownership.User | None:
        seen.append(root)
        return ownership.User(1000, 1000) if user else None

    def done_by(name: str, *_: object) -> int:
        seen.append(name)
        return 0

    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(process, "in_a_user_namespace", lambda: inside)
    monkeypatch.setattr(ownership, "user_of", user_of)
    monkeypatch.setattr(stepdown, "carry_out", functools.partial(done_by, "child"))
    monkeypatch.setattr(VERBS["list"], "call", functools.partial(done_by, "us"))
    assert parse.main(["--root=/run/oci-criu-shim/12", "list"]) == 0
    assert seen == [*(["/run/oci-criu-shim/12"] if uid == 0 and not inside else []), by]
