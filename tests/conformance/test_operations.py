"""runtime.md, "Start", "Kill" and "Delete"; steps 6 to 12 of "Lifecycle"; "Errors"."""

from __future__ import annotations

import pytest

from tests.conformance.runtime import Bundle, Runtime, until

COUNT = "echo ran >>/case/ran; exec sleep 1000"
TRAP = (
    "import signal, os, time\n"
    "def note(number, frame): open('/case/signal', 'w').write(f'{number}\\n')\n"
    "for number in (1, 2, 10, 12, 15, 34): signal.signal(number, note)\n"
    "open('/case/ready', 'w').write('ready\\n')\n"
    "while True: time.sleep(0.1)\n"
)
NAMES = {"": 15, "TERM": 15, "SIGUSR1": 10, "12": 12, "HUP": 1, "34": 34}
"""Operands of kill, and the signals that they mean."""


def test_without_id(runtime: Runtime) -> None:
    """runtime.md#start, #kill, #delete: no id is an error."""
    for verb in ("start", "kill", "delete"):
        runtime.call(verb).refused(verb)


def test_unknown(runtime: Runtime) -> None:
    """runtime.md#start, #kill, #delete: a container that does not exist is in no status that they allow."""
    for verb in ("start", "kill", "delete"):
        runtime.call(verb, "unknown").refused(verb)


def test_start_returns_while_the_program_runs(bundle: Bundle) -> None:
    """runtime.md#start: it runs the program, once."""
    bundle.script(COUNT).started()
    assert bundle.marked("ran") == "ran\n"
    assert bundle.state()["status"] == "running"


def test_start_of_running(bundle: Bundle) -> None:
    """runtime.md#start: of a container that is not `created`: an error, and no effect."""
    bundle.script(COUNT).started()
    bundle.marked("ran")
    before = bundle.state()
    bundle.runtime.call("start", bundle.name).refused()
    assert bundle.state() == before
    assert bundle.marked("ran") == "ran\n"


@pytest.mark.parametrize("ran", [True, False], ids=["after-its-end", "killed-before-start"])
def test_start_of_stopped(bundle: Bundle, ran: bool) -> None:
    """runtime.md#start: of a container that is not `created`: an error, and no effect."""
    if ran:
        bundle.script("echo ran >>/case/ran").started()
        bundle.marked("ran")
        bundle.runtime.wait_stopped(bundle.name)
    else:
        bundle.script(COUNT).stopped()
    bundle.runtime.call("start", bundle.name).refused()
    assert bundle.state()["status"] == "stopped"
    assert bundle.mark("ran").exists() == ran
    assert not ran or bundle.marked("ran") == "ran\n"


def test_kill_of_created(bundle: Bundle) -> None:
    """runtime.md#kill: a signal to a created container; the program is never run."""
    bundle.script(COUNT).stopped()
    assert not bundle.mark("ran").exists()


def test_kill_sends_the_signal(bundle: Bundle) -> None:
    """runtime.md#kill: the container process gets the specified signal (TERM is the default of runc and crun)."""
    bundle.args("python3", "-IS", "-c", TRAP).started()
    bundle.marked("ready")
    for words, number in NAMES.items():
        bundle.runtime.call("kill", bundle.name, *words.split()).ok()
        assert bundle.marked("signal") == f"{number}\n", words
        bundle.mark("signal").unlink()
    assert bundle.state()["status"] == "running"


def test_kill_ends_it(bundle: Bundle) -> None:
    """runtime.md#lifecycle, 10: the process may exit because of kill."""
    bundle.started().runtime.call("kill", bundle.name, "KILL").ok()
    bundle.runtime.wait_stopped(bundle.name)


def test_kill_of_stopped(bundle: Bundle) -> None:
    """runtime.md#kill: of a container neither `created` nor `running`: an error, and no effect."""
    bundle.stopped().runtime.call("kill", bundle.name, "KILL").refused()
    assert bundle.state()["status"] == "stopped"


def test_kill_with_no_signal(bundle: Bundle) -> None:
    """runtime.md#kill, #errors: what is no signal is an error, and has no effect."""
    bundle.started()
    before = bundle.state()
    for name in ("NOSUCH", "999", "-1", "", "SIG", "9x"):
        bundle.runtime.call("kill", bundle.name, "--", name).refused(name)
        assert bundle.state() == before, name


def test_delete_of_running(bundle: Bundle) -> None:
    """runtime.md#delete: of a container that is not `stopped`: an error, and no effect."""
    bundle.started()
    before = bundle.state()
    bundle.runtime.call("delete", bundle.name).refused()
    assert bundle.state() == before


def everything(bundle: Bundle) -> list[str]:
    """What a container could leave on the node: control groups, mounts, processes, files."""
    root = bundle.runtime.inside(bundle.runtime.root)
    script = f"""
        find /sys/fs/cgroup -type d
        cut -d' ' -f5 /proc/1/mountinfo
        ps -eo args= | grep -v ^ps
        find {root} /run /tmp /dev/shm
    """
    return sorted(bundle.runtime.shell(script, "root").splitlines())


def test_delete_removes_everything(bundle: Bundle) -> None:
    """runtime.md#delete: the resources that create made are deleted, others not."""
    bundle.stopped().runtime.call("delete", bundle.name).ok()  # what the first one makes for all
    before = everything(bundle)
    bundle.started()
    assert everything(bundle) != before
    bundle.runtime.call("kill", bundle.name, "KILL").ok()
    bundle.runtime.wait_stopped(bundle.name)
    bundle.runtime.call("delete", bundle.name).ok()
    bundle.runtime.call("state", bundle.name).refused()
    until(lambda: everything(bundle) == before, "nothing to be left")
    assert (bundle.path / "config.json").exists()


@pytest.mark.parametrize("before", ["created", "running", "stopped"])
def test_delete_by_force(bundle: Bundle, before: str) -> None:
    """--force of runc and crun, which ends the container first."""
    {"created": lambda: bundle.create().ok(), "running": bundle.started, "stopped": bundle.stopped}[before]()
    bundle.runtime.call("delete", "--force", bundle.name).ok()
    assert bundle.runtime.status(bundle.name) == "none"
    assert not bundle.runtime.names()


def test_delete_by_force_of_nothing(runtime: Runtime) -> None:
    """--force of runc and crun: what is not there is as good as deleted."""
    runtime.call("delete", "--force", "unknown").ok()


def test_delete_frees_the_id(bundle: Bundle) -> None:
    """runtime.md#delete: its id may be used by a subsequent container."""
    bundle.script("echo first >/case/ran").started()
    bundle.runtime.wait_stopped(bundle.name)
    bundle.runtime.call("delete", bundle.name).ok()
    bundle.script("echo second >/case/ran").started()
    bundle.runtime.wait_stopped(bundle.name)
    assert bundle.marked("ran") == "second\n"


def test_delete_twice(bundle: Bundle) -> None:
    """runtime.md#delete: the second time there is none."""
    bundle.stopped().runtime.call("delete", bundle.name).ok()
    bundle.runtime.call("delete", bundle.name).refused()


def test_delete_leaves_others(bundle: Bundle) -> None:
    """runtime.md#delete: what this container did not make is not deleted."""
    bundle.create("other").ok()
    bundle.stopped().runtime.call("delete", bundle.name).ok()
    assert bundle.runtime.status("other") == "created"
    bundle.runtime.call("start", "other").ok()
    assert bundle.runtime.status("other") == "running"
