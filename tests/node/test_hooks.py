"""Hooks around a restore are called as crun calls them around a start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.harness.cluster import wait_for
from tests.node import configured
from tests.node.support import Life, Site, home

OUTSIDE, INSIDE = ("prestart", "createRuntime", "poststart"), ("createContainer", "startContainer")
ORDER = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"]
STATUS = {"startContainer": "created", "poststart": "running"}  # as the specification has it; crun says "created" early
USERS = pytest.mark.parametrize("user", ["root", "alice"])


def hook(log: str, kind: str, *more: str) -> dict[str, Any]:
    """One that notes how it was called; that of startContainer is in the container's own files."""
    program = "/hook.py" if kind == "startContainer" else "/src/tests/harness/programs/hook.py"
    arguments = ["named", "-I", program, "/log/notes" if kind == "startContainer" else log, kind, *more]
    return {"path": "/usr/bin/python3", "args": arguments, "env": [f"KIND={kind}", "WORDS=a b=c"]}


@contextmanager
def container(site: Site, user: str) -> Iterator[Life]:
    """One whose hooks note their calls in its bundle's log/notes."""
    bundle = f"{home(user)}/bundle{site.counter + 1}"
    spec = site.spec(user)
    spec["annotations"] = {"org.example.words": "told"}
    spec["mounts"].append(configured.bind(bundle, "/log", "log", ["bind", "rw"]))
    spec["hooks"] = {kind: [hook(f"{bundle}/log/notes", kind)] for kind in (*ORDER, "poststop")}
    life = site.container(user, spec)
    site.exec(["mkdir", f"{bundle}/log"], user)
    try:
        with site.lending(user):
            yield life
    finally:
        life.stop()


def run(life: Life) -> dict[str, Any]:
    """Until all hooks of a start were called: crun keeps nobody waiting for poststart; what is seen inside then."""
    life.run()
    seen = life.look()
    path = f"{life.bundle}/log/notes"
    wait_for(lambda: life.site.exec(["cat", path], life.user).stdout.count("\n") == len(ORDER), 10, "its hooks")
    return seen


def notes(life: Life) -> list[dict[str, Any]]:
    """The calls since this was last asked."""
    path = f"{life.bundle}/log/notes"
    text = life.site.exec(["cat", path], life.user).stdout
    life.site.exec(["rm", path], life.user)
    return [json.loads(line) for line in text.splitlines()]


def fail(life: Life, kind: str, *more: str) -> None:
    """Have one of the hooks fail at the restore."""
    life.spec["hooks"][kind].append(hook(f"{life.bundle}/log/notes", kind, *more))
    life.write()


@USERS
def test_like_crun(site: Site, user: str) -> None:
    with container(site, user) as life:
        links = run(life)["namespaces"]
        at_start = notes(life)
        life.checkpoint()
        at_end = notes(life)
        life.restore()
        again, now = life.look(), life.state()
        at_restore = notes(life)
        assert [note["kind"] for note in at_restore] == ORDER
        by_kind = {note["kind"]: note for note in at_start}  # crun does not wait for startContainer with poststart
        for note in at_restore:
            then = by_kind[note["kind"]]
            assert note["environment"] == then["environment"] == {"KIND": note["kind"], "WORDS": "a b=c"}
            state = note["state"]
            for name in ("id", "bundle", "annotations"):
                assert state[name] == now[name], note["kind"]  # crun says "/" of the bundle to startContainer
            assert (state["pid"], state["status"]) == (now["pid"], STATUS.get(note["kind"], "creating"))
            check_place(note, then, again["namespaces"], links)
        assert life.end() == 0
        for (note,) in (at_end, notes(life)):  # the checkpoint was an end, too
            state = note["state"]
            assert (note["kind"], state["status"]) == ("poststop", "stopped")
            assert all(state[name] == now[name] for name in ("id", "bundle", "annotations"))


def check_place(note: dict[str, Any], then: dict[str, Any], links: dict[str, str], before: dict[str, str]) -> None:
    """In the container's namespaces, or in none of them, as it was with crun."""
    inside = note["kind"] in INSIDE
    for name, link in note["namespaces"].items():
        assert (link == links[name]) == (then["namespaces"][name] == before[name])
        assert (link == links[name]) == inside or name == "user"
    assert ("inside.py" in note["root"]) == ("inside.py" in then["root"]) == (note["kind"] == "startContainer")


@USERS
@pytest.mark.parametrize("kind", ORDER[:-1])
def test_a_failing_one_undoes_the_restore(site: Site, user: str, kind: str) -> None:
    with container(site, user) as life:
        run(life)
        life.checkpoint()
        notes(life)
        fail(life, kind, "7")
        life.restore()
        assert life.end() == 1
        assert f"the {kind} hook /usr/bin/python3 exited with 7" in life.said()
        called = [note["kind"] for note in notes(life)]
        assert called == [*ORDER[: ORDER.index(kind) + 1], kind, "poststop"]
        assert not site.exec(["pgrep", "-f", "inside.py"], check=False).stdout
        left = site.exec(["ls", f"{home(user)}/run"], user).stdout.split()
        assert not [name for name in left if name != "helper.0.sock" and not name.startswith("kept.")]  # the epilog's


def test_a_failing_poststart_is_a_warning(site: Site) -> None:
    with container(site, "alice") as life:
        life.run()
        life.look()
        life.checkpoint()
        fail(life, "poststart", "7")
        life.restore()
        life.look()
        assert life.end() == 0
        assert "the poststart hook /usr/bin/python3 exited with 7" in life.said()


def test_one_that_takes_too_long(site: Site) -> None:
    with container(site, "alice") as life:
        life.run()
        life.look()
        life.checkpoint()
        life.spec["hooks"]["createRuntime"] = [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]
        life.write()
        life.restore()
        assert life.end() == 1
        assert "took longer than 1 s" in life.said()
        assert not site.exec(["pgrep", "-x", "sleep"], check=False).stdout


def test_one_that_is_not_there(site: Site) -> None:
    with container(site, "alice") as life:
        life.run()
        life.look()
        life.checkpoint()
        life.spec["hooks"]["startContainer"] = [{"path": "/no/such"}]
        life.write()
        life.restore()
        assert life.end() == 1
        assert "/no/such: No such file or directory" in life.said()
