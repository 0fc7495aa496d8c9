"""runtime.md, "Start", "Kill" and "Delete"; steps 6 to 12 of "Lifecycle"; "Errors"."""

from __future__ import annotations

from collections import Counter

from tests.conformance.runtime import Bundle, Runtime, until

COUNT = "echo ran >>/case/ran; exec sleep 1000"
TRAP = (
    "import signal, os, time\n"
    "def note(number, frame): open('/case/signal', 'w').write(f'{number}\\n')\n"
    "for number in (1, 2, 10, 12, 15, 34): signal.signal(number, note)\n"
    "open('/case/ready', 'w').write('ready\\n')\n"
    "while True: time.sleep(0.1)\n"
)
NAMES = {"": 15, "TERM": 15, "SIGUSR1": 10, "12": 12, "HUP": 1, "34": 34, "RTMIN": 34, "015": 15}
"""Operands of kill, and the signals that they mean."""


def test_without_id(runtime: Runtime) -> None:
    """runtime.md#start, #kill, #delete: no id is an error."""
    for verb in ("start", "kill", "delete"):
        runtime.call(verb).refused(verb, usage=True)


def test_unknown(runtime: Runtime) -> None:
    """runtime.md#start, #kill, #delete: a container that does not exist is in no status that they allow."""
    for verb in ("start", "kill", "delete"):
        runtime.call(verb, "unknown").refused(verb)


def test_start_of_running(bundle: Bundle) -> None:
    """runtime.md#start: it runs the program, once; of a container that is not `created`: an error, and no effect."""
    bundle.script(COUNT).started()
    assert bundle.marked("ran") == "ran\n"
    before = bundle.state()
    assert before["status"] == "running"
    bundle.start().refused()
    assert bundle.state() == before
    assert bundle.marked("ran") == "ran\n"


def test_start_of_ended(bundle: Bundle) -> None:
    """runtime.md#start: of a container that is not `created`: an error, and no effect."""
    bundle.script("echo ran >>/case/ran").started().wait_ended()
    bundle.start().refused()
    assert bundle.state()["status"] == "stopped"
    assert bundle.marked("ran") == "ran\n"


def test_operations_on_stopped(bundle: Bundle) -> None:
    """runtime.md#kill: ends a created container, whose program is never run; then start, and kill, are errors, and
    have no effect; delete is none, the first time."""
    bundle.script(COUNT).stopped()
    bundle.start().refused("start")
    bundle.kill("KILL").refused("kill")
    assert bundle.state()["status"] == "stopped"
    assert not bundle.mark("ran").exists()
    bundle.delete().ok()
    bundle.delete().refused("delete")


def test_kill_sends_the_signal(bundle: Bundle) -> None:
    """runtime.md#kill: the container process gets the specified signal (TERM is the default of runc and crun)."""
    bundle.args("python3", "-IS", "-c", TRAP).started()
    bundle.marked("ready")
    for words, number in NAMES.items():
        bundle.kill(*words.split()).ok()
        assert bundle.marked("signal") == f"{number}\n", words
        bundle.mark("signal").unlink()
    assert bundle.state()["status"] == "running"


def test_kill_with_no_signal(bundle: Bundle) -> None:
    """runtime.md#kill, #errors: what is no signal is an error, and has no effect."""
    bundle.started()
    before = bundle.state()
    for name in ("NOSUCH", "999", "-1", "", "SIG", "TERM+1", "RTMIN+31", "RTMAX+1", "RTMIN-1"):
        bundle.runtime.call("kill", "--", bundle.name, name).refused(name)
    bundle.kill("0").ok()  # kill(2): no signal is sent
    assert bundle.state() == before


def test_delete_of_running(bundle: Bundle) -> None:
    """runtime.md#delete: of a container that is not `stopped`: an error, and no effect."""
    bundle.started()
    before = bundle.state()
    bundle.delete().refused()
    assert bundle.state() == before


def everything(bundle: Bundle) -> Counter[str]:
    """What a container could leave on the node: control groups, mounts, processes, files."""
    root = bundle.runtime.inside(bundle.runtime.root)
    script = f"""
        find /sys/fs/cgroup -type d
        cut -d' ' -f5 /proc/1/mountinfo
        ps -eo args= | grep -v ^ps
        find {root} /run /tmp /dev/shm
    """
    return Counter(bundle.runtime.shell(script, "root").splitlines())


def test_delete_removes_everything(bundle: Bundle) -> None:
    """runtime.md#delete: the resources that create made are deleted, others not."""
    bundle.stopped().delete().ok()  # what the first one makes for all
    before = everything(bundle)
    bundle.started()
    assert everything(bundle) - before
    bundle.end()
    bundle.delete().ok()
    bundle.runtime.call("state", bundle.name).refused()
    until(lambda: not everything(bundle) - before, "nothing to be left")
    assert (bundle.path / "config.json").exists()


def test_delete_by_force(bundle: Bundle) -> None:
    """--force of runc and crun, which ends the container first."""
    for prepare in (lambda: bundle.create().ok(), bundle.started):
        prepare()
        bundle.delete("--force").ok()
        assert not bundle.runtime.names()
    bundle.runtime.call("state", bundle.name).refused()


def test_delete_by_force_of_nothing(runtime: Runtime) -> None:
    """--force of runc and crun: what is not there is as good as deleted."""
    runtime.call("delete", "--force", "unknown").ok()


def test_delete_frees_the_id(bundle: Bundle) -> None:
    """runtime.md#delete: its id may be used by a subsequent container."""
    for which in ("first", "second"):
        bundle.script(f"echo {which} >/case/ran").started().wait_ended()
        assert bundle.marked("ran") == f"{which}\n"
        bundle.delete().ok()


def test_delete_leaves_others(bundle: Bundle) -> None:
    """runtime.md#delete: what this container did not make is not deleted."""
    bundle.create("other").ok()
    bundle.stopped().delete().ok()
    assert bundle.runtime.status("other") == "created"
    bundle.runtime.call("start", "other").ok()
    assert bundle.runtime.status("other") == "running"


def test_by_regular_expression(bundle: Bundle) -> None:
    """--regex of crun, for `kill` and `delete`."""
    for name in ("one", "two", "three"):
        bundle.create(name).ok()
    call, names = bundle.runtime.call, bundle.runtime.names
    call("kill", "--regex", "^t", "KILL").ok()
    for name in ("two", "three"):
        bundle.runtime.wait_ended(name)
    call("delete", "--regex", "^tw|ee$").ok()
    assert (names(), bundle.runtime.status("one")) == ({"one"}, "created")
    call("delete", "--force", "--regex", ".").ok()
    assert not names()


def test_run_that_is_kept(bundle: Bundle) -> None:
    """--keep of runc and crun: the container is `stopped` when `run` has ended, and is there to be deleted."""
    assert bundle.script("exit 7").run("--keep").status == 7
    assert bundle.state()["status"] == "stopped"
    bundle.delete().ok()
    assert not bundle.runtime.names()


def test_another_configuration(bundle: Bundle) -> None:
    """--config of crun: another file than the bundle's."""
    bundle.args("echo", "other").save()
    (bundle.path / "config.json").rename(bundle.mark("other.json"))
    assert bundle.args("echo", "ran").run("--config=other.json").ok().out == "other\n"
