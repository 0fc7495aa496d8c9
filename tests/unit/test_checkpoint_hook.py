"""When a job's hook is run, with what, for how long, and what is said of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config
from oci_criu_shim.container import bundle, registry
from oci_criu_shim.container.checkpoint_hook import AFTER, BEFORE, CheckpointHook
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.log import Log
from oci_criu_shim.supervisor.attempts import Attempts
from oci_criu_shim.task import schedule
from oci_criu_shim.task.policy import NO_REASON, Policy
from oci_criu_shim.task.take import Taker
from tests.unit.test_policy import Make, make

__all__ = ["make"]
Capture = pytest.CaptureFixture[str]
VARIABLE, ANNOTATION = bundle.HOOK_OPTION, bundle.HOOK
NOTE = 'echo "$OCI_CRIU_SHIM_HOOK $OCI_CRIU_SHIM_REASON $OCI_CRIU_SHIM_RESULT" >>"$NOTES"'


class Backend:
    """Runs on this machine what it is to run in a container."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def spawn(self, verb: str, *words: str, fds: Mapping[int, int]) -> int:
        self.words = [verb, *words]
        given = dict(word.removeprefix("--env=").split("=", 1) for word in words if word.startswith("--env="))
        return process.spawn([*words[words.index("one") + 1 :]], given, fds)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    with subprocess.Popen(["sleep", "60"]) as program:
        made = Container(str(tmp_path), "one")
        made.reserve()
        config = {"process": {"env": [f"NOTES={tmp_path}/notes", "PATH=/usr/bin"], "cwd": "/var"}}
        made.save({"init": process.identity(program.pid), "config": config})
        yield made
        program.kill()


def hook(container: Container, command: str, seconds: float = 20, end: float = 0) -> CheckpointHook:
    pid = container.load()["init"][0]
    return CheckpointHook(container, pid, Backend(), command, seconds, "it", Log(), end)  # type: ignore[arg-type]


def notes(container: Container) -> list[str]:
    path = Path(container.root, "notes")
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("env", "annotations", "wanted"),
    [
        ([], {}, ""),
        (["A=b", "EMPTY"], {ANNOTATION: "close"}, "close"),
        ([f"{VARIABLE}=a=b c"], {ANNOTATION: "close"}, "a=b c"),
        ([f"{VARIABLE}=first", f"{VARIABLE}=second"], {}, "second"),
    ],
)
def test_who_asks_for_it(env: list[str], annotations: dict[str, str], wanted: str) -> None:
    assert bundle.checkpoint_hook({"process": {"env": env}, "annotations": annotations}) == wanted


def test_it_is_one_argument_of_the_containers_shell(container: Container) -> None:
    command = f"{NOTE}; : '; $(x)'"
    made = hook(container, command)
    made.run(BEFORE, "preempt")
    words = made.backend.words  # type: ignore[attr-defined]
    assert words[:2] == ["exec", "--cwd=/var"]
    assert words[-4:] == ["one", "/bin/sh", "-c", command]
    assert notes(container) == ["pre-dump preempt "]


@pytest.mark.parametrize(
    ("ends", "fails", "wanted"),
    [
        (True, False, ["pre-dump preempt "]),
        (True, True, ["pre-dump preempt ", "post-dump preempt failed"]),
        (False, False, ["pre-dump preempt ", "post-dump preempt taken"]),
    ],
)
def test_around_a_dump(container: Container, ends: bool, fails: bool, wanted: list[str]) -> None:
    try:
        with hook(container, NOTE).around("preempt", ends):
            if fails:
                raise ShimError("no room")
    except ShimError:
        assert fails
    assert notes(container) == wanted


def test_what_fails_is_said(container: Container, capfd: Capture) -> None:
    hook(container, "echo words; exit 3").run(AFTER, "interval", "taken")
    said = "oci-criu-shim: error: the checkpoint hook of it (post-dump, interval) failed: exit status 3\n"
    assert capfd.readouterr() == ("", "words\n" + said)


def test_a_container_that_has_ended_needs_no_hook(container: Container, capfd: Capture) -> None:
    pid = container.load()["init"][0]
    hook(container, f"kill -KILL {pid}; exit 1").run(BEFORE, "preempt")
    hook(container, NOTE).run(BEFORE, "preempt")
    assert capfd.readouterr().err == ""
    assert notes(container) == []


@pytest.mark.parametrize(("seconds", "left"), [(0.2, 0), (0.2, 60), (60, 0.6)])
def test_it_is_ended_in_time(container: Container, capfd: Capture, seconds: float, left: float) -> None:
    """With all that it has started; no more than a third of what is left of the time is its own."""
    script = "setsid sleep 61 & echo $! >>$NOTES; sleep 62"
    begun = time.monotonic()
    hook(container, script, seconds, time.time() + left if left else 0).run(BEFORE, "preempt")
    assert time.monotonic() - begun < 10
    assert "failed: it took longer than 0." in capfd.readouterr().err
    (other,) = notes(container)
    assert process.start_time(int(other)) is None


def test_its_time_counts(make: Make) -> None:
    """Before a time limit, and in the grace time."""
    policy, other = make("timeout"), make("timeout")
    assert (policy.hook_limit, policy.schedule.margin) == (0, 10)
    known = config.Settings(config.DEFAULTS)
    hooked = Policy(other.container, other.task, other.store, known, other.log, hook="close")
    assert (hooked.hook_limit, hooked.schedule.margin) == (5, 15)
    hooked.grace = 20
    hooked._say_once("it", 16)
    assert hooked.said == {"it"}
    policy.grace = 20
    policy._say_once("it", 16)
    assert not policy.said


def test_a_restore_is_told_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make("preempt")
    attempts = Attempts(policy, Log())
    attempts.restored("preempt")
    assert attempts.reasons == []
    policy.hook = "close"
    attempts.restored("preempt")
    assert attempts.reasons == [schedule.RESTORED]
    told = []
    monkeypatch.setattr(CheckpointHook, "run", lambda _, *words: told.append(words))
    monkeypatch.setattr(registry, "backend_of", lambda *_: Backend())
    last = policy.schedule.last
    policy.begin(schedule.RESTORED)
    policy.done(schedule.RESTORED, Taker(policy).tell_of_restore())
    assert told == [("post-restore", "preempt")]
    assert attempts._work() == NO_REASON
    assert policy.schedule.last == last


def test_the_history_has_it(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Any] = []
    monkeypatch.setattr(Log, "note", lambda _, kind, **facts: noted.append((kind, facts)))
    hook(container, "exit 1").run(BEFORE, "preempt")
    reason = "the checkpoint hook of it (pre-dump, preempt) failed: exit status 1"
    assert noted == [("hook-failed", {"reason": reason})]
